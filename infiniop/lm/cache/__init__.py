"""KV caches: configurations, the block allocator, and the memory that sequences live in."""

from .blocks import AllocatorStatistics, BlockAllocator, CacheFullError
from .config import (
    CacheConfig,
    CacheGeometry,
    PagedKVCacheConfig,
    StaticKVCacheConfig,
    create_cache_config,
    register_cache_mode,
)
from .pool import BlockCache, KVPool
from .sequences import SequenceTable

__all__ = [
    "AllocatorStatistics",
    "BlockAllocator",
    "BlockCache",
    "CacheConfig",
    "CacheFullError",
    "CacheGeometry",
    "KVPool",
    "PagedKVCacheConfig",
    "SequenceTable",
    "StaticKVCacheConfig",
    "create_cache_config",
    "register_cache_mode",
]
