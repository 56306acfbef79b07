"""The same work on many machines, by way of Ray (the extra ``cardiac-autoseg[cluster]``); nothing else imports Ray."""
