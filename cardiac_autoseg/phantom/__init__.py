"""Synthetic short-axis cine-MRI whose volumes, ejection fractions and mass are known from closed-form geometry."""

from cardiac_autoseg.phantom.acquisition import Acquisition, random_acquisition
from cardiac_autoseg.phantom.anatomy import GROUPS, Anatomy, Body
from cardiac_autoseg.phantom.groups import random_subject
from cardiac_autoseg.phantom.render import render, voxelise
from cardiac_autoseg.phantom.subject import Subject, make_subject, write_acdc
from cardiac_autoseg.phantom.truth import Truth, Volumes, truth

__all__ = [
    "GROUPS",
    "Acquisition",
    "Anatomy",
    "Body",
    "Subject",
    "Truth",
    "Volumes",
    "make_subject",
    "random_acquisition",
    "random_subject",
    "render",
    "truth",
    "voxelise",
    "write_acdc",
]
