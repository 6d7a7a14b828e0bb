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
from .contiguous import DynamicCache, KVCache
from .paged import Block, CacheMemory, PagedKVCache, PagedKVCacheAdapter, create_paged_kv_cache
from .pool import BlockCache, KVPool
from .sequences import SequenceTable

__all__ = [
    "AllocatorStatistics",
    "Block",
    "BlockAllocator",
    "BlockCache",
    "CacheConfig",
    "CacheFullError",
    "CacheGeometry",
    "CacheMemory",
    "DynamicCache",
    "KVCache",
    "KVPool",
    "PagedKVCache",
    "PagedKVCacheAdapter",
    "PagedKVCacheConfig",
    "SequenceTable",
    "StaticKVCacheConfig",
    "create_cache_config",
    "create_paged_kv_cache",
    "register_cache_mode",
]
