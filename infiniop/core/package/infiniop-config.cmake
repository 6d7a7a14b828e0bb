include("${CMAKE_CURRENT_LIST_DIR}/infiniop-targets.cmake")
