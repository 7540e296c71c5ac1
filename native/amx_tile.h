// The tile registers of Intel AMX (AMX-TILE and AMX-INT8), as far as the linear layers need them: eight registers of up to 16
// rows of 64 bytes. With SAMOVAR_EMULATE_AMX the class does in plain C++ what the operation sections of Intel's manual (Software
// Developer's Manual, volume 2) say of LDTILECFG, TILEZERO, TILELOADD, TILESTORED and TDPBSUD, so that the kernels above it can
// be tested bit for bit on any processor with AVX-512; its checks end the program where a processor would raise #GP or #UD.
#pragma once

#include <cstdint>
#include <cstring>

namespace samovar::SAMOVAR_ISA {

// The operand of LDTILECFG: for each register the bytes of a row, and the rows.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

#if !defined(SAMOVAR_EMULATE_AMX)

// Sets the registers up for this thread; they are given back (and the system need not save them) with the object.
// Written in assembler, since gcc 12's intrinsics are wrong about memory: to it _tile_loadconfig reads 8 bytes of 64, and
// _tile_loadd none, so that stores before them may be dropped or delayed. They want literal register numbers besides.
class Tiles {
 public:
  explicit Tiles(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
  ~Tiles() { asm volatile("tilerelease" : : : "memory"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int kTile>
  void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  void load(const void* p, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  void store(void* p, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
  }
  // sum[m][n] += sum over k of signed a[m][k] * unsigned b[k / 4][4 n + k % 4], exact in 32 bits (no saturation).
  template <int kSum, int kA, int kB>
  void multiply() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
  }
};

#else

class Tiles {
 public:
  explicit Tiles(const TileConfig& config) : config_(config) {
    require(config.palette == 1 && config.start_row == 0);
    for (const uint8_t byte : config.reserved) require(byte == 0);
    for (int i = 0; i < 16; ++i) {
      require(config.row_bytes[i] <= (i < 8 ? 64 : 0) && config.rows[i] <= (i < 8 ? 16 : 0));
      require((config.row_bytes[i] == 0) == (config.rows[i] == 0));
    }
    std::memset(tiles_, 0, sizeof tiles_);
  }

  template <int kTile>
  void zero() {
    require(config_.rows[kTile] > 0);
    std::memset(tiles_[kTile], 0, sizeof tiles_[kTile]);
  }
  template <int kTile>
  void load(const void* p, int64_t stride) {
    zero<kTile>();
    for (int m = 0; m < config_.rows[kTile]; ++m) {
      std::memcpy(tiles_[kTile][m], static_cast<const uint8_t*>(p) + m * stride, config_.row_bytes[kTile]);
    }
  }
  template <int kTile>
  void store(void* p, int64_t stride) {
    require(config_.rows[kTile] > 0);
    for (int m = 0; m < config_.rows[kTile]; ++m) {
      std::memcpy(static_cast<uint8_t*>(p) + m * stride, tiles_[kTile][m], config_.row_bytes[kTile]);
    }
  }
  template <int kSum, int kA, int kB>
  void multiply() {
    static_assert(kSum != kA && kSum != kB && kA != kB);
    require(config_.rows[kSum] == config_.rows[kA] && config_.row_bytes[kSum] == config_.row_bytes[kB] &&
            config_.row_bytes[kA] == 4 * config_.rows[kB] && config_.row_bytes[kSum] % 4 == 0 && config_.rows[kSum] > 0);
    for (int m = 0; m < config_.rows[kSum]; ++m) {
      for (int k = 0; k < config_.row_bytes[kA] / 4; ++k) {
        for (int n = 0; n < config_.row_bytes[kSum] / 4; ++n) {
          int32_t sum;
          std::memcpy(&sum, tiles_[kSum][m] + 4 * n, 4);
          for (int byte = 0; byte < 4; ++byte) {
            sum += static_cast<int8_t>(tiles_[kA][m][4 * k + byte]) * static_cast<int32_t>(tiles_[kB][k][4 * n + byte]);
          }
          std::memcpy(tiles_[kSum][m] + 4 * n, &sum, 4);
        }
      }
    }
  }

 private:
  static void require(bool is_legal) {
    if (!is_legal) __builtin_trap();
  }
  TileConfig config_;
  uint8_t tiles_[8][16][64];
};

#endif

}  // namespace samovar::SAMOVAR_ISA
