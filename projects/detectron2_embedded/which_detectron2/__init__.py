"""Which Detectron2 is asked for, which is in use, and what is wrong with it.

A folder with a name that nobody else takes: what lies beside `detectron2` can be imported by its bare name too.
"""
