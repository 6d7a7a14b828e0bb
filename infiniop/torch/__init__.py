"""The operators as torch's own: `import infiniop.torch`, then `torch.ops.infiniop.rms_norm(x, w)`.

They work under `torch.compile(fullgraph=True)` and `torch.export`. Nothing here links libtorch.
"""

from __future__ import annotations

from . import library

library.register()
