#include "cpu.h"

#if defined(SAMOVAR_ARM64) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace samovar {
namespace {

// One instruction set of this build. `runs` asks for every flag that CMakeLists.txt compiles it with.
struct Isa {
  const char* name;
  bool (*runs)();
  const Kernels& (*kernels)();
};

bool runs_anywhere() { return true; }

#if defined(SAMOVAR_X86)
bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }

bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}
#endif

#if defined(SAMOVAR_ARM64)
bool runs_neon_dot() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & (1ul << 20)) != 0;  // HWCAP_ASIMDDP
#else
  return false;
#endif
}
#endif

constexpr Isa kIsas[] = {  // best last
    {"scalar", runs_anywhere, scalar::kernels},
#if defined(SAMOVAR_X86)
    {"avx2", runs_avx2, avx2::kernels},
    {"avx512", runs_avx512, avx512::kernels},
#endif
#if defined(SAMOVAR_ARM64)
    {"neon", runs_anywhere, neon::kernels},
    {"neon_dot", runs_neon_dot, neon_dot::kernels},
#endif
};

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : kIsas) {
    if (isa.runs()) names.emplace_back(isa.name);
  }
  return names;
}

const Kernels* find_kernels(const std::string& name) {
  for (const Isa& isa : kIsas) {
    if (name == isa.name && isa.runs()) return &isa.kernels();
  }
  return nullptr;
}

}  // namespace samovar
