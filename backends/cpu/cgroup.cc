#include "cgroup.h"

#include <cstdlib>
#include <fstream>
#include <sstream>

namespace infiniop::cpu {
namespace {

bool lists(const std::string &names, const std::string &name) {
    return ("," + names + ",").find("," + name + ",") != std::string::npos;
}

// Where a hierarchy is mounted, and which of its folders that is.
struct Mount {
    std::string point, folder;
};

// Of a line of mountinfo: "36 35 98:0 FOLDER POINT OPTIONS... - TYPE SOURCE OPTIONS".
bool find_mount(const std::string &root, int version, const std::string &controller, Mount &mount) {
    std::ifstream file(root + "/proc/self/mountinfo");
    for (std::string line; std::getline(file, line);) {
        const size_t dash = line.find(" - ");
        if (dash == std::string::npos) {
            continue;
        }
        std::istringstream before(line), after(line.substr(dash + 3));
        std::string skipped, type, source, options;
        before >> skipped >> skipped >> skipped >> mount.folder >> mount.point;
        after >> type >> source >> options;
        if (version == 2 ? type == "cgroup2" : type == "cgroup" && lists(options, controller)) {
            return true;
        }
    }
    return false;
}

// The process's folder in a hierarchy, from a line "ID:CONTROLLERS:FOLDER"; version 2 has no controllers there.
bool find_folder(const std::string &root, int version, const std::string &controller, std::string &folder) {
    std::ifstream file(root + "/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) {
            continue;
        }
        const std::string names = line.substr(first + 1, second - first - 1);
        if (version == 2 ? names.empty() : lists(names, controller)) {
            folder = line.substr(second + 1);
            return true;
        }
    }
    return false;
}

std::vector<std::string> folders(const std::string &root, const Mount &mount, std::string folder) {
    if (mount.folder != "/" && (folder + "/").compare(0, mount.folder.size() + 1, mount.folder + "/") == 0) {
        folder.erase(0, mount.folder.size()); // a container sees only its own folder, mounted at the top
    }
    std::vector<std::string> found;
    for (; folder.size() > 1; folder.erase(folder.rfind('/'))) {
        found.push_back(root + mount.point + folder);
    }
    found.push_back(root + mount.point);
    return found;
}

// "max" and whatever is no number count as none: -1.
bool read(const std::string &path, double &first, double *second = nullptr) {
    std::ifstream file(path);
    std::string a, b;
    if (!(file >> a) || (second && !(file >> b))) {
        return false;
    }
    const auto number = [](const std::string &word) {
        char *end = nullptr;
        const double value = strtod(word.c_str(), &end);
        return *end == '\0' ? value : -1;
    };
    first = number(a);
    if (second) {
        *second = number(b);
    }
    return true;
}

} // namespace

Cgroup find_cgroup(const std::string &controller, const std::string &root) {
    Mount mount;
    std::string folder;
    for (const int version : {1, 2}) { // a machine with both has a controller in version 1, if it is mounted there
        if (find_folder(root, version, controller, folder) && find_mount(root, version, controller, mount)) {
            return {version, folders(root, mount, folder)};
        }
    }
    return {};
}

double cpu_quota(const std::string &root) {
    const Cgroup cgroup = find_cgroup("cpu", root);
    double least = 0;
    for (const std::string &folder : cgroup.folders) {
        double quota, period;
        const bool known = cgroup.version == 2 ? read(folder + "/cpu.max", quota, &period)
                                               : read(folder + "/cpu.cfs_quota_us", quota) &&
                                                     read(folder + "/cpu.cfs_period_us", period);
        if (known && quota > 0 && period > 0 && (least == 0 || quota / period < least)) {
            least = quota / period;
        }
    }
    return least;
}

} // namespace infiniop::cpu
