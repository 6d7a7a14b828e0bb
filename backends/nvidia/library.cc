#include "library.h"

#include <dlfcn.h>

#include <cstdlib>

namespace infiniop::nvidia {
namespace {

void *open(const std::string &path, std::string &why) {
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *reason = dlerror();
        why += (why.empty() ? "" : "; ") + (reason ? std::string(reason) : path);
    }
    return library;
}

// site-packages, if this plugin lies in site-packages/infiniop/lib.
std::string packages() {
    Dl_info here;
    if (!dladdr(reinterpret_cast<const void *>(&packages), &here) || !here.dli_fname) {
        return "..";
    }
    const std::string path = here.dli_fname;
    const size_t slash = path.rfind('/');
    return (slash == path.npos ? "." : path.substr(0, slash)) + "/../..";
}

} // namespace

void *open_library(const char *variable, const char *name, const std::vector<std::string> &folders, std::string &why) {
    why.clear();
    if (const char *path = secure_getenv(variable); path && *path) { // it runs code
        return open(path, why);
    }
    void *library = open(name, why);
    for (size_t i = 0; !library && i < folders.size(); i++) {
        library = open(packages() + "/" + folders[i] + "/" + name, why);
    }
    return library;
}

} // namespace infiniop::nvidia
