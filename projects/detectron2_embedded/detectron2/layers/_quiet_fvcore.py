"""Imports fvcore.nn before anything else does, without the warning of newer torch that users can do nothing about."""

import warnings

with warnings.catch_warnings():
    # fvcore compiles its focal loss with torch.jit.script at import, which newer torch reports to every user.
    warnings.simplefilter("ignore", FutureWarning)
    import fvcore.nn  # noqa: F401
