#include "cpu.h"

#if defined(SAMOVAR_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "amx_check.h"
#endif
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

#if defined(SAMOVAR_AMX)
// Whether the processor has AMX-TILE and AMX-INT8, the system saves the tile registers (XCR0 bits 17 and 18), and it lets this
// process use them (Linux asks for that once: arch_prctl ARCH_REQ_XCOMP_PERM for feature 18).
bool may_use_amx() {
  unsigned a, b, c, d;
  if (!runs_avx512() || !__get_cpuid(1, &a, &b, &c, &d) || (c & bit_OSXSAVE) == 0) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d >> 24 & 3) != 3) return false;
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low >> 17 & 3) != 3) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

enum class Amx { kAbsent, kWrong, kUsable };

Amx amx_state() {
  static const Amx state = !may_use_amx()                                       ? Amx::kAbsent
                           : amx_agrees(amx::kernels(), avx512::kernels()) ? Amx::kUsable
                                                                                : Amx::kWrong;
  return state;
}

bool runs_amx() { return amx_state() == Amx::kUsable; }
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
#if defined(SAMOVAR_AMX_EMULATED)
    {"amx_emulated", runs_avx512, amx_emulated::kernels},
#endif
    {"avx512", runs_avx512, avx512::kernels},
#if defined(SAMOVAR_AMX)
    {"amx", runs_amx, amx::kernels},
#endif
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

std::string isa_warning() {
#if defined(SAMOVAR_AMX)
  if (amx_state() == Amx::kWrong) {
    return "this processor's AMX instructions gave a wrong product in the check at start and are not used (please report the "
           "processor): running on AVX-512, which is slower for prompts";
  }
#endif
  return "";
}

}  // namespace samovar
