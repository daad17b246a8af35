"""Types of the compiled module that `c_ext.lane_build` makes: see the declarations there."""

from typing import Any

lib: Any
ffi: Any
