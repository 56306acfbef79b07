import sys; sys.path.insert(0,'/work/main/tests/trust')
from test_fit import *
def test_x(pool, like, observations, tmp_path):
    clean = {item.subject: item for item in observations if not item.corruption}
    for fold in FOLDS:
        cases = [case for case in pool.cases[fold] if case.subject == pool.cases[fold][0].subject]
        ims=[load_image(pool.workspace,c) for c in cases]
        print([c.id for c in cases],[i.geometry.spacing_zyx for i in ims],[i.array.shape for i in ims],[f.case for f in clean[cases[0].subject].frames])
        labs=[fold_labels(pool, like, cases, name, tmp_path/str(k)) for k in range(3) for name in (fold,)]
        print([np.mean(l==labs[0]) for l in labs])
        for frame,case,l in zip(clean[cases[0].subject].frames,cases,labs[0]):
            t=load_labels(pool.workspace,pool.dataset,case,'expert').array
            print(frame.dice,{n:dice(l==v,t==v) for n,v in pool.dataset.labels.items() if v})
    assert 0
