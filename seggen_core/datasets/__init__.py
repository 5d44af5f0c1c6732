"""Real datasets: one reader a file behind one interface, and the embedded procedural scenes.

- `open`, `reader`, `sample`: the reader that params.yaml names, its interface, what it returns
- `ade20k` ... `voc2012`, `folder`, `scenes`: the datasets
- `id_maps`, `coco_reader`: what several of them share
- `files`, `decode`, `class_table`: files and what they hold, checked
- `splits`, `subset`, `fit`: which samples, and at what size
- `build`, `validate`: the stage `dataset` and the command `seggen validate`
"""
