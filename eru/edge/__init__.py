"""Models for other runtimes: one graph, the formats that it is written in, int8, and the folder that it ships in.

This room knows tensors and files. What a language model or a vision model is, :mod:`eru.lm.edge` and
:mod:`vision.edge` tell it.
"""
