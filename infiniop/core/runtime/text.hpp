// Lists in environment variables.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace infini {

// The parts of a list, without spaces around them and without empty ones; nullptr is an empty list.
inline std::vector<std::string> split(const char *list, char separator) {
    std::vector<std::string> parts;
    std::string_view rest = list ? list : "";
    while (!rest.empty()) {
        const size_t end = std::min(rest.find(separator), rest.size());
        std::string_view part = rest.substr(0, end);
        rest.remove_prefix(std::min(end + 1, rest.size()));
        part.remove_prefix(std::min(part.find_first_not_of(' '), part.size()));
        part = part.substr(0, part.find_last_not_of(' ') + 1);
        if (!part.empty()) {
            parts.emplace_back(part);
        }
    }
    return parts;
}

} // namespace infini
