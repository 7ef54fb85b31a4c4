"""The simulated NVIDIA driver: libcuda, NVRTC and cuBLAS in one library."""
