#!/usr/bin/env bash
# Gets OpenCL's loader and headers, and a device: pocl, which makes one of the processor. 77: cannot be had here.
set -euo pipefail
packages="pocl-opencl-icd ocl-icd-opencl-dev opencl-headers"
installed() { dpkg -s $packages >/dev/null 2>&1; }
if ! installed && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    (apt-get update && apt-get install -y --no-install-recommends $packages) >/dev/null 2>&1 || true
fi
if ! installed; then
    echo "no OpenCL device (apt-get install $packages)"
    exit 77
fi
