"""The compile check: the kernels of the op set through compilers that need no device."""
