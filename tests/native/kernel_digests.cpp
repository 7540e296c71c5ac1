// Runs every kernel of one instruction set on pseudo-random data at awkward sizes and prints a digest for each case. Needs no
// Python, so it can be compiled for another processor and run in an emulator; the same cases must give the same digests
// everywhere. Without arguments: the names of the instruction sets that this processor runs, best last. With `amx-check`: what the
// self-check of AMX says of right kernels and of such that err in one bit.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "amx_check.h"
#include "cpu.h"
#include "half.h"
#include "ops.h"

namespace {

using namespace samovar;

constexpr int64_t kRowCounts[] = {1, 2, 3, 7, 16, 33};

// splitmix64: the same numbers on every processor.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  uint64_t below(uint64_t n) { return next() % n; }
  float uniform() { return static_cast<float>(static_cast<int32_t>(below(1 << 24)) - (1 << 23)) * 0x1p-22f; }  // within 2
  std::vector<float> floats(int64_t n) {
    std::vector<float> out(static_cast<size_t>(n));
    for (float& x : out) x = uniform();
    return out;
  }

 private:
  uint64_t state_;
};

uint64_t digest(const void* data, size_t n_bytes) {  // FNV-1a
  const auto* bytes = static_cast<const uint8_t*>(data);
  uint64_t hash = 0xCBF29CE484222325u;
  for (size_t i = 0; i < n_bytes; ++i) hash = (hash ^ bytes[i]) * 0x100000001B3u;
  return hash;
}

template <class T>
void report(const std::string& name, const std::vector<T>& values) {
  for (const T x : values) {
    if (x != x) std::exit((std::fprintf(stderr, "%s: not a number, so its bits mean nothing\n", name.c_str()), 1));
  }
  std::printf("%s %016llx\n", name.c_str(), static_cast<unsigned long long>(digest(values.data(), values.size() * sizeof(T))));
}

struct NamedType {
  const char* name;
  Type type;
  std::vector<int> f16_at;  // where a block's float16 numbers stand; all else may be any bytes
};
const NamedType kTypes[] = {
    {"F32", Type::kF32, {}},           {"F16", Type::kF16, {0}},         {"BF16", Type::kBF16, {}},
    {"Q4_0", Type::kQ4_0, {0}},        {"Q4_1", Type::kQ4_1, {0, 2}},    {"Q5_0", Type::kQ5_0, {0}},
    {"Q5_1", Type::kQ5_1, {0, 2}},     {"Q8_0", Type::kQ8_0, {0}},       {"Q2_K", Type::kQ2_K, {80, 82}},
    {"Q3_K", Type::kQ3_K, {108}},      {"Q4_K", Type::kQ4_K, {0, 2}},    {"Q5_K", Type::kQ5_K, {0, 2}},
    {"Q6_K", Type::kQ6_K, {208}},      {"IQ4_NL", Type::kIQ4_NL, {0}},   {"IQ4_XS", Type::kIQ4_XS, {0}},
    {"MXFP4", Type::kMXFP4, {}},       {"NVFP4", Type::kNVFP4, {}},      {"U4_G32", Type::kU4_32, {}},
    {"U4_G128", Type::kU4_128, {}},    {"U8_G32", Type::kU8_32, {}},     {"U8_G64", Type::kU8_64, {}},
    {"IQ1_S", Type::kIQ1_S, {0}},      {"IQ1_M", Type::kIQ1_M, {}},      {"IQ2_XXS", Type::kIQ2_XXS, {0}},
    {"IQ2_XS", Type::kIQ2_XS, {0}},    {"IQ2_S", Type::kIQ2_S, {0}},     {"IQ3_XXS", Type::kIQ3_XXS, {0}},
    {"IQ3_S", Type::kIQ3_S, {0}},      {"TQ1_0", Type::kTQ1_0, {52}},    {"TQ2_0", Type::kTQ2_0, {64}},
    {"Q1_0", Type::kQ1_0, {0}},        {"Q2_0", Type::kQ2_0, {0}},
    {"E4M3_G32", Type::kE4M3_32, {}},  {"E4M3_G128", Type::kE4M3_128, {}}, {"E5M2_G64", Type::kE5M2_64, {}},
};

// A block of a grouped type out of random bytes: a moderate scale, a zero point in its range, no codes that are no numbers.
void tame_grouped(const Format& format, uint8_t* p, Random& random) {
  const float scale = random.uniform() * 0x1p-5f;
  std::memcpy(p, &scale, 4);
  if (format.zero_bytes == 1) p[4] = static_cast<uint8_t>(random.below(17));
  if (format.zero_bytes == 2) {
    const uint16_t zero = f32_to_f16(static_cast<float>(random.below(257)));
    std::memcpy(p + 4, &zero, 2);
  }
  if (!format.is_float8()) return;
  const uint8_t mask = format.type < Type::kE5M2_32 ? 0x7F : 0x7C;
  for (int i = 4; i < format.block_bytes; ++i) {
    if ((p[i] & mask) == mask) p[i] = 0x31;
  }
}

std::vector<uint8_t> random_blocks(const NamedType& type, const Format& format, int64_t n_blocks, Random& random) {
  std::vector<uint8_t> out(static_cast<size_t>(n_blocks * format.block_bytes));
  for (uint8_t& byte : out) byte = static_cast<uint8_t>(random.next());
  for (int64_t block = 0; block < n_blocks; ++block) {
    uint8_t* p = out.data() + block * format.block_bytes;
    for (const int at : type.f16_at) {  // 2^-11 to 2^-3, and now and then 0
      const uint64_t bits = random.next();
      const auto half = static_cast<uint16_t>(bits % 16 == 0 ? 0 : (bits & 0x83FF) | ((4 + (bits >> 20) % 8) << 10));
      std::memcpy(p + at, &half, 2);
    }
    if (format.is_grouped()) tame_grouped(format, p, random);
    if (type.type == Type::kMXFP4) p[0] = static_cast<uint8_t>(110 + random.below(15));
    if (type.type == Type::kIQ1_M) {  // 2^-7 to 2^-6; a quarter in the uppermost bits of each of four numbers
      for (int i = 0; i < 4; ++i) p[49 + 2 * i] = static_cast<uint8_t>((p[49 + 2 * i] & 15) | (i == 3 ? 0x20 : i == 2 ? 0x00 : p[49 + 2 * i] & 0xF0));
    }
    if (type.type == Type::kNVFP4) {
      for (int i = 0; i < 4; ++i) p[i] &= 127;
    }
    if (type.type == Type::kF32 || type.type == Type::kBF16) {
      const float value = random.uniform();
      std::memcpy(p, reinterpret_cast<const uint8_t*>(&value) + (4 - format.block_bytes), static_cast<size_t>(format.block_bytes));
    }
  }
  return out;
}

std::string shape(std::initializer_list<int64_t> sizes) {
  std::string out;
  for (const int64_t n : sizes) {
    if (!out.empty()) out += 'x';
    out += std::to_string(n);
  }
  return out;
}

// Codes that are no codebook's, but of its size and range, for a type that has one.
void give_codebook(Engine& engine, const Format& format, Random& random) {
  const Codebook shape = codebook_of(format.type);
  if (shape.size() == 0) return;
  std::vector<uint8_t> codes(static_cast<size_t>(shape.size()));
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random.below(static_cast<uint64_t>(shape.largest_code) + 1));
  engine.take_codebook(format, codes);
}

std::vector<float> multiply(Engine& engine, const std::vector<float>& x, int64_t n_rows, const PackedLinear& weight) {
  std::vector<float> out(static_cast<size_t>(n_rows * weight.view.n_out));
  const Product product{weight.view, out.data(), nullptr, nullptr};
  engine.linears({Rows::kPlain, x.data(), nullptr, 0.0f}, n_rows, weight.view.n_in, {&product, 1});
  return out;
}

void linear_case(Engine& engine, const NamedType& type, int64_t n_out, int64_t n_in, int64_t n_rows, Random& random) {
  const Format& format = *find_format(static_cast<int>(type.type));
  const auto stored = random_blocks(type, format, n_out * n_in / format.block_elements, random);
  auto x = random.floats(n_rows * n_in);
  for (size_t i = 0; i < x.size(); i += 3 + i % 61) x[i] *= 100.0f;  // groups of different size
  for (int64_t i = 0; i < n_in / 2; ++i) x[static_cast<size_t>(i)] = i % 64 < 32 ? 0.0f : x[static_cast<size_t>(i)];
  give_codebook(engine, format, random);  // the first one stays
  PackedLinear packed(format, n_out, n_in);
  engine.pack(packed, {0, 1, stored, nullptr, engine.codebook(format)});
  report(std::string("linear ") + type.name + " " + shape({n_rows, n_in, n_out}), multiply(engine, x, n_rows, packed));
}

void linears(Engine& engine) {
  Random random(1);
  for (const NamedType& type : kTypes) {
    const int64_t block = find_format(static_cast<int>(type.type))->block_elements;
    const int64_t unit = block == 1 ? 37 : block;
    for (const auto& [n_out, n_blocks] : {std::pair<int64_t, int64_t>{1, 1}, {15, 3}, {33, 2}}) {
      for (const int64_t n_rows : kRowCounts) linear_case(engine, type, n_out, n_blocks * unit, n_rows, random);
    }
    linear_case(engine, type, 83, 512, 50, random);
  }
  linear_case(engine, kTypes[3], 160, 2048, 70, random);  // several blocks of rows
}

void ordered_linears(Engine& engine) {
  Random random(12);
  for (const Type type : {Type::kU4_32, Type::kE4M3_64, Type::kBF16}) {
    const Format& format = *find_format(static_cast<int>(type));
    const int64_t n_out = 35, n_in = 192;
    const auto stored = random_blocks({"", type, {}}, format, n_out * n_in / format.block_elements, random);
    std::vector<int32_t> order(n_in);
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i * 65 % n_in);
    PackedLinear packed(format, n_out, n_in, 1, true);
    engine.pack(packed, {0, 1, stored, order.data()});
    for (const int64_t n_rows : {1, 3, 33}) {
      const auto x = random.floats(n_rows * n_in);
      report("ordered " + std::to_string(static_cast<int>(type)) + " " + shape({n_rows}), multiply(engine, x, n_rows, packed));
    }
  }
}

// Rows to the blocks of each type that they can be quantised to.
void quantisers(Engine& engine) {
  constexpr int64_t kRows = 7, kWidth = 768;
  Random random(12);
  const auto x = random.floats(kRows * kWidth);
  auto importance = random.floats(kWidth);
  for (float& w : importance) w = w * w + 0.01f;
  for (const Type type : {Type::kQ4_0, Type::kQ4_1, Type::kQ5_0, Type::kQ5_1, Type::kQ8_0, Type::kQ4_K, Type::kQ5_K, Type::kQ6_K,
                          Type::kIQ4_NL, Type::kInt4Rows}) {
    const Format& format = *find_format(static_cast<int>(type));
    std::vector<uint8_t> out(static_cast<size_t>(kRows * kWidth / format.block_elements * format.block_bytes));
    if (!engine.quantise(format, x.data(), importance.data(), kRows, kWidth, out.data())) std::abort();
    report("quantise " + std::to_string(static_cast<int>(type)), out);
  }
}

void int4_linears(Engine& engine) {
  Random random(11);
  const Format &int4 = *find_format(static_cast<int>(Type::kInt4)), &f32 = *find_format(static_cast<int>(Type::kF32));
  for (const auto& [n_out, n_in] : {std::pair<int64_t, int64_t>{1, 64}, {15, 192}, {40, 320}, {83, 1024}}) {
    const auto values = random.floats(n_out * n_in);
    const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
    PackedLinear packed(int4, n_out, n_in);
    if (!engine.pack_int4(packed, f32, {0, 1, {bytes, values.size() * 4}})) std::abort();
    for (const int64_t n_rows : {1, 2, 3, 7, 16, 33, 50}) {
      auto x = random.floats(n_rows * n_in);
      for (size_t i = 0; i < x.size(); i += 3 + i % 61) x[i] *= 30.0f;  // outliers
      report("int4 " + shape({n_rows, n_in, n_out}), multiply(engine, x, n_rows, packed));
    }
  }
}

void experts(Engine& engine) {
  Random random(12);
  constexpr int64_t kExperts = 5, kModel = 512, kFfn = 256, kMostChosen = 3;
  const auto stack = [&](const NamedType& type, int64_t n_out, int64_t n_in) {
    const Format& format = *find_format(static_cast<int>(type.type));
    const auto stored = random_blocks(type, format, kExperts * n_out * n_in / format.block_elements, random);
    PackedLinear packed(format, n_out, n_in, kExperts);
    engine.pack(packed, {0, kExperts, stored});
    return packed;
  };
  for (const auto& [wide, narrow] : {std::pair<int, int>{3, 11}, {0, 0}, {10, 10}, {7, 1}, {12, 3}}) {
    const auto gate = stack(kTypes[wide], kFfn, kModel), up = stack(kTypes[wide], kFfn, kModel), down = stack(kTypes[narrow], kModel, kFfn);
    for (const int64_t n_rows : kRowCounts) {
      const auto x = random.floats(n_rows * kModel), residual = random.floats(n_rows * kModel), logits = random.floats(n_rows * kExperts);
      for (int64_t n_chosen = 1; n_chosen <= kMostChosen; n_chosen += 2) {
        std::vector<int32_t> ids(static_cast<size_t>(n_rows * n_chosen));
        std::vector<float> weights(ids.size()), out(x.size());
        engine.route(logits.data(), n_rows, kExperts, n_chosen, n_chosen > 1, ids.data(), weights.data());
        engine.experts(x.data(), n_rows, {&gate, &up, &down}, {ids.data(), weights.data(), n_chosen}, residual.data(), out.data());
        const std::string name = std::string(kTypes[wide].name) + " " + shape({n_rows, n_chosen});
        report("route " + name, weights);
        report("experts " + name, out);
      }
    }
  }
  const auto logits = random.floats(3 * 150);
  std::vector<int32_t> ids(3 * 37);
  std::vector<float> weights(ids.size());
  engine.route(logits.data(), 3, 150, 37, true, ids.data(), weights.data());
  report("route ids", ids);
  report("route 37 of 150", weights);
}

// Experts of which each projection has an order of inputs of its own.
void ordered_experts(Engine& engine) {
  Random random(13);
  constexpr int64_t kExperts = 3, kModel = 128, kFfn = 192, kChosen = 2;
  const auto stack = [&](Type type, int64_t n_out, int64_t n_in, int64_t stride) {
    const Format& format = *find_format(static_cast<int>(type));
    PackedLinear packed(format, n_out, n_in, kExperts, true);
    for (int64_t e = 0; e < kExperts; ++e) {
      const auto stored = random_blocks({"", type, {}}, format, n_out * n_in / format.block_elements, random);
      std::vector<int32_t> order(static_cast<size_t>(n_in));
      for (int64_t i = 0; i < n_in; ++i) order[static_cast<size_t>(i)] = static_cast<int32_t>((i * stride + e) % n_in);
      engine.pack(packed, {e, 1, stored, order.data()});
    }
    return packed;
  };
  for (const Type type : {Type::kU4_64, Type::kE4M3_32}) {
    const auto gate = stack(type, kFfn, kModel, 5), up = stack(type, kFfn, kModel, 11), down = stack(type, kModel, kFfn, 7);
    for (const int64_t n_rows : kRowCounts) {
      const auto x = random.floats(n_rows * kModel), residual = random.floats(n_rows * kModel), logits = random.floats(n_rows * kExperts);
      std::vector<int32_t> ids(static_cast<size_t>(n_rows * kChosen));
      std::vector<float> weights(ids.size()), out(x.size());
      engine.route(logits.data(), n_rows, kExperts, kChosen, true, ids.data(), weights.data());
      engine.experts(x.data(), n_rows, {&gate, &up, &down}, {ids.data(), weights.data(), kChosen}, residual.data(), out.data());
      report("ordered experts " + std::to_string(static_cast<int>(type)) + " " + shape({n_rows}), out);
    }
  }
}

// Codes and inputs at the ends of their ranges: -128 * 127 has no room to spare.
void extremes(Engine& engine) {
  const Format& format = *find_format(static_cast<int>(Type::kQ8_0));
  for (const int code : {0x80, 0x81, 0x7F}) {
    std::vector<uint8_t> stored(34 * 16, static_cast<uint8_t>(code));
    for (size_t i = 0; i < stored.size(); i += 34) stored[i] = 0, stored[i + 1] = 0x3C;  // scale 1
    PackedLinear packed(format, 16, 32);
    engine.pack(packed, {0, 1, stored});
    for (const float sign : {1.0f, -1.0f}) {
      const std::vector<float> x(40 * 32, sign * 127.0f);
      report("extremes " + std::to_string(code) + (sign > 0 ? "+" : "-"), multiply(engine, x, 40, packed));
    }
  }
}

void elementwise(Engine& engine) {
  Random random(2);
  for (const int64_t n_in : {1, 7, 64, 129, 576}) {
    const auto x = random.floats(5 * n_in), weight = random.floats(n_in);
    std::vector<float> out(x.size());
    engine.rms_norm(x.data(), weight.data(), 1e-5f, 5, n_in, out.data());
    report("rms_norm " + shape({5, n_in}), out);
  }
  for (const auto& [d_head, n_pairs] : {std::pair<int64_t, int64_t>{64, 32}, {36, 9}, {80, 20}, {128, 64}}) {
    const auto x = random.floats(7 * 3 * d_head), cos = random.floats(7 * n_pairs), sin = random.floats(7 * n_pairs);
    std::vector<float> out(x.size());
    engine.rope(x.data(), cos.data(), sin.data(), 7, 3, d_head, n_pairs, out.data());
    report("rope " + shape({7, 3, d_head, n_pairs}), out);
  }
  auto gate = random.floats(40001);
  for (size_t i = 0; i < gate.size(); ++i) gate[i] *= i % 4 == 0 ? 60.0f : i % 4 == 1 ? 1e-20f : 1.0f;
  gate[0] = 0.0f, gate[1] = -0.0f, gate[2] = 1e30f, gate[3] = -1e30f, gate[5] = 88.8f, gate[6] = -88.8f;
  const auto up = random.floats(40001);
  std::vector<float> out(gate.size());
  engine.silu_gate(gate.data(), up.data(), static_cast<int64_t>(gate.size()), out.data());
  report("silu_gate " + shape({40001}), out);
  engine.gelu_gate(gate.data(), up.data(), static_cast<int64_t>(gate.size()), out.data());
  report("gelu_gate " + shape({40001}), out);
  engine.sigmoid_gate(gate.data(), up.data(), static_cast<int64_t>(gate.size()), 1, out.data());
  report("sigmoid_gate " + shape({40001}), out);
  engine.sigmoid_gate(gate.data(), up.data(), 3, 13333, out.data());
  report("sigmoid_gate " + shape({3, 13333}), out);
  engine.accumulate(up.data(), static_cast<int64_t>(up.size()), out.data());
  report("accumulate " + shape({40001}), out);
}

// Three sequences on scattered pages: a long one that decodes, a prompt in the middle of its chunks, a new prompt.
void attention_case(Engine& engine, KvKind kind, int64_t n_heads, int64_t n_kv_heads, int64_t d_head, Random& random) {
  constexpr int64_t kPages = 24, kWidth = 20;
  const std::vector<int32_t> starts{0, 1, 38, 41}, positions{600, 40, 0};
  std::vector<int32_t> tables(3 * kWidth);
  const int64_t n_pages[] = {19, 3, 1};
  int64_t taken = 0;
  std::vector<int64_t> slots;
  for (int64_t s = 0; s < 3; ++s) {
    for (int64_t p = 0; p < n_pages[s]; ++p, ++taken) {
      tables[static_cast<size_t>(s * kWidth + p)] = static_cast<int32_t>(taken * 7 % kPages);
    }
    const auto i = static_cast<size_t>(s);
    for (int64_t t = 0; t < positions[i] + starts[i + 1] - starts[i]; ++t) {
      slots.push_back(tables[static_cast<size_t>(s * kWidth + t / kPageTokens)] * kPageTokens + t % kPageTokens);
    }
  }
  const int64_t item = kind == KvKind::kF32 ? 4 : kind == KvKind::kI8 ? 1 : 2, n_tokens = static_cast<int64_t>(slots.size());
  std::vector<uint8_t> k_pages(static_cast<size_t>(kPages * n_kv_heads * d_head * kPageTokens * item), 0xFF), v_pages = k_pages;
  std::vector<uint8_t> k_scales(static_cast<size_t>(kPages * n_kv_heads * kPageTokens * 4), 0xFF), v_scales = k_scales;
  const KvView kv{kind,
                  n_kv_heads,
                  d_head,
                  k_pages.data(),
                  v_pages.data(),
                  kind == KvKind::kI8 ? reinterpret_cast<float*>(k_scales.data()) : nullptr,
                  kind == KvKind::kI8 ? reinterpret_cast<float*>(v_scales.data()) : nullptr};
  const auto k = random.floats(n_tokens * n_kv_heads * d_head), v = random.floats(n_tokens * n_kv_heads * d_head);
  engine.write_kv(k.data(), v.data(), kv, slots.data(), n_tokens);
  const std::string name = std::to_string(static_cast<int>(kind)) + " " + shape({n_heads, n_kv_heads, d_head});
  report("write_kv keys " + name, k_pages);
  report("write_kv values " + name, v_pages);
  report("write_kv scales " + name, k_scales);
  const auto q = random.floats(41 * n_heads * d_head);
  std::vector<float> out(q.size());
  const SpanView spans{starts.data(), positions.data(), tables.data(), 3, kWidth};
  for (const int64_t window : {int64_t{1} << 30, int64_t{300}, int64_t{7}}) {
    engine.attention(q.data(), n_heads, kv, spans, 0.125f, window, out.data());
    report("attention " + name + " window " + std::to_string(window), out);
  }
}

void attentions(Engine& engine) {
  Random random(3);
  for (const KvKind kind : {KvKind::kF32, KvKind::kF16, KvKind::kBF16, KvKind::kI8}) {
    attention_case(engine, kind, 6, 2, 64, random);
    attention_case(engine, kind, 3, 3, 36, random);
    attention_case(engine, kind, 8, 1, 80, random);
    attention_case(engine, kind, 4, 2, 128, random);
  }
}

// Three sequences: one that decodes, a prompt in the middle of its chunks, a new prompt over what was left in its slot.
void delta_net_case(Engine& engine, int64_t n_key_heads, int64_t n_heads, int64_t d_key, int64_t d_value, int64_t n_taps,
                    Random& random) {
  const int64_t n_channels = 2 * n_key_heads * d_key + n_heads * d_value, n_rows = 30, n_slots = 4;
  const std::vector<int32_t> starts{0, 1, 18, n_rows}, positions{600, 40, 0}, slots{2, 0, 3};
  auto inputs = random.floats(n_slots * (n_taps - 1) * n_channels), memories = random.floats(n_slots * n_heads * d_key * d_value);
  const auto x = random.floats(n_rows * n_channels), taps = random.floats(n_taps * n_channels), bias = random.floats(n_heads);
  auto gates = random.floats(n_rows * 2 * n_heads), rate = random.floats(n_heads);
  for (size_t i = 0; i < gates.size(); ++i) gates[i] *= i % 5 == 0 ? 30.0f : 1.0f;
  for (float& r : rate) r = r < 0.0f ? -r : r;
  std::vector<float> convolved(x.size()), out(static_cast<size_t>(n_rows * n_heads * d_value));
  const SpanView spans{starts.data(), positions.data(), nullptr, 3, 0};
  const StateView states{inputs.data(), memories.data(), slots.data()};
  engine.convolve(x.data(), taps.data(), n_taps, n_channels, spans, states, convolved.data());
  engine.delta_rule({convolved.data(), gates.data(), rate.data(), bias.data(), out.data(), n_key_heads, n_heads, d_key, d_value}, spans,
                    states);
  const std::string name = shape({n_key_heads, n_heads, d_key, d_value, n_taps});
  report("convolve " + name, convolved);
  report("convolve inputs " + name, inputs);
  report("delta_rule " + name, out);
  report("delta_rule memories " + name, memories);
}

void delta_nets(Engine& engine) {
  Random random(5);
  delta_net_case(engine, 1, 1, 1, 1, 2, random);
  delta_net_case(engine, 2, 6, 33, 17, 5, random);
  delta_net_case(engine, 3, 3, 20, 36, 3, random);
  delta_net_case(engine, 1, 2, 128, 128, 4, random);
  delta_net_case(engine, 1, 1, 256, 65, 16, random);
}

void sampling(const Kernels& kernels) {
  Random random(4);
  for (const int64_t n : {int64_t{1}, int64_t{700}, kSampleBlock}) {
    const auto x = random.floats(n);
    std::vector<float> maxima(16);
    kernels.lane_maxima(x.data(), n, maxima.data());
    report("lane_maxima " + shape({n}), maxima);
    std::vector<double> weights(kSampleBlock + 1);
    weights.back() = kernels.weigh(x.data(), n, 2.0f, 37.5, 1e-30, weights.data());
    report("weigh " + shape({n}), weights);
  }
}

#if defined(SAMOVAR_AMX_EMULATED)
const Kernels* checked;

void err_in_one_bit(const WeightView& w, const uint8_t* tiles, int64_t n_rows, int64_t first, int64_t last, int64_t group_first,
                    int64_t group_last, float* out, uint8_t* scratch) {
  checked->quant_linear(w, tiles, n_rows, first, last, group_first, group_last, out, scratch);
  if (w.format->type == Type::kQ2_K) out[w.n_out * 17 + 3] = -out[w.n_out * 17 + 3];
}

int check_amx() {
  checked = find_kernels("amx_emulated");
  if (checked == nullptr) return 2;
  Kernels wrong = *checked;
  wrong.quant_linear = err_in_one_bit;
  const Kernels& vectors = *find_kernels("avx512");
  std::printf("%s %s\n", amx_agrees(*checked, vectors) ? "agrees" : "differs", amx_agrees(wrong, vectors) ? "agrees" : "differs");
  return 0;
}
#endif

}  // namespace

int main(int argc, char** argv) {
#if defined(SAMOVAR_AMX_EMULATED)
  if (argc > 1 && argv[1] == std::string("amx-check")) return check_amx();
#endif
  if (argc == 1) {
    for (const std::string& name : available_isas()) std::puts(name.c_str());
    return 0;
  }
  const Kernels* kernels = find_kernels(argv[1]);
  if (kernels == nullptr) {
    std::fprintf(stderr, "%s does not run here\n", argv[1]);
    return 2;
  }
  Engine engine(*kernels, 2);
  linears(engine);
  int4_linears(engine);
  quantisers(engine);
  experts(engine);
  ordered_linears(engine);
  ordered_experts(engine);
  extremes(engine);
  elementwise(engine);
  attentions(engine);
  delta_nets(engine);
  sampling(*kernels);
}
