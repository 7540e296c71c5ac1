#include "cpu.h"

namespace samovar {
namespace {

bool runs_avx2() {
#if defined(SAMOVAR_X86)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

bool runs_avx512() {
#if defined(SAMOVAR_X86)
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names{"scalar"};
  if (runs_avx2()) names.emplace_back("avx2");
  if (runs_avx512()) names.emplace_back("avx512");
  return names;
}

const Kernels* find_kernels(const std::string& isa) {
  if (isa == "scalar") return &scalar::kernels();
#if defined(SAMOVAR_X86)
  if (isa == "avx2" && runs_avx2()) return &avx2::kernels();
  if (isa == "avx512" && runs_avx512()) return &avx512::kernels();
#endif
  return nullptr;
}

}  // namespace samovar
