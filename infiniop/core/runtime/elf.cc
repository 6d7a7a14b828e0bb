// What is wrong with a file before dlopen sees it: dlopen says "no such file" of a library for another machine, waits
// for ever on a pipe, and touches pages that a truncated file does not have.
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "plugin.hpp"

namespace infini {
namespace {

class File {
public:
    explicit File(const char *path) : fd_(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
    File(const File &) = delete;
    File &operator=(const File &) = delete;
    ~File() {
        if (fd_ >= 0) {
            close(fd_);
        }
    }
    bool is_open() const { return fd_ >= 0; }
    bool status(struct stat *s) const { return fstat(fd_, s) == 0; }
    template <class Struct> bool read(Struct *to, uint64_t offset) const {
        return pread(fd_, to, sizeof *to, static_cast<off_t>(offset)) == static_cast<ssize_t>(sizeof *to);
    }

private:
    int fd_;
};

using Header = ElfW(Ehdr);
using Segment = ElfW(Phdr);

// Of the process itself: this library was built for the same machine.
#if defined(__x86_64__)
constexpr int our_machine = EM_X86_64;
#elif defined(__aarch64__)
constexpr int our_machine = EM_AARCH64;
#elif defined(__riscv)
constexpr int our_machine = EM_RISCV;
#elif defined(__loongarch__)
constexpr int our_machine = 258;
#elif defined(__powerpc64__)
constexpr int our_machine = EM_PPC64;
#else
constexpr int our_machine = EM_NONE; // dlopen will say it in its own words
#endif

std::string machine_name(int machine) {
    switch (machine) {
    case EM_386:
        return "x86";
    case EM_X86_64:
        return "x86-64";
    case EM_ARM:
        return "ARM, 32 bits";
    case EM_AARCH64:
        return "AArch64";
    case EM_RISCV:
        return "RISC-V";
    case 258:
        return "LoongArch";
    case EM_PPC64:
        return "POWER";
    }
    return "ELF machine " + std::to_string(machine);
}

std::string wrong_segment(const File &file, const Header &header, uint64_t size) {
    for (size_t i = 0; i < header.e_phnum; ++i) {
        Segment segment;
        if (!file.read(&segment, header.e_phoff + i * sizeof segment) || segment.p_filesz > size ||
            segment.p_offset > size - segment.p_filesz) {
            return "the file is truncated: " + std::to_string(size) + " bytes are not all that its headers name";
        }
    }
    return {};
}

} // namespace

std::string unloadable(const std::string &path) {
    if (path.find('/') == path.npos) {
        return {}; // the dynamic linker searches for it
    }
    const File file(path.c_str());
    struct stat status;
    if (!file.is_open() || !file.status(&status)) {
        return std::strerror(errno);
    }
    if (!S_ISREG(status.st_mode)) {
        return "not a file";
    }
    Header header;
    if (!file.read(&header, 0) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
        return "not a shared library (no ELF header)";
    }
    if (our_machine != EM_NONE && header.e_machine != our_machine) {
        return "built for " + machine_name(header.e_machine) + ", this machine is " + machine_name(our_machine);
    }
    const bool known = header.e_ident[EI_CLASS] == (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32) &&
                       header.e_phentsize == sizeof(Segment);
    return known ? wrong_segment(file, header, static_cast<uint64_t>(status.st_size))
                 : "an ELF file of another word size";
}

} // namespace infini
