#include "bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <queue>
#include <stdexcept>
#include <unordered_map>

namespace samovar {
namespace {

constexpr uint32_t kMagic = 0x31455042, kCodePoints = 0x110000, kBlock = 256, kBlockNumbers = kCodePoints / kBlock;
constexpr uint32_t kMaxSlots = 1u << 28;
constexpr size_t kShortWord = 40;  // pieces; longer words are merged with a heap

struct Header {
  uint32_t magic, words, n_tokens, n_pair_slots, n_piece_slots, n_blocks, n_piece_bytes, zero;
};

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

constexpr size_t padded(size_t size) { return (size + 15) / 16 * 16; }

uint32_t hash_pair(uint32_t left, uint32_t right) {
  return static_cast<uint32_t>((((uint64_t{left} << 32) | right) * 0x9E3779B97F4A7C15u) >> 32);
}

uint32_t hash_bytes(std::string_view bytes) {
  uint64_t h = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : bytes) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return static_cast<uint32_t>(h ^ (h >> 32));
}

// The code point at `at`, which moves behind it. A byte that begins none stands for itself.
uint32_t next_code_point(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : 0u; };
  const uint32_t first = byte(at++);
  const int n_more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : first >= 0xc0 ? 1 : 0;
  if (n_more == 0) return first;
  uint32_t code_point = first & (0x3f >> n_more);
  for (int i = 0; i < n_more; ++i) {
    if ((byte(at) & 0xc0) != 0x80) break;
    code_point = (code_point << 6) | (byte(at++) & 0x3f);
  }
  return code_point;
}

// The parts of a table in their order; `take` is given the size of each.
template <class Take>
void lay_out(const Header& h, Take take) {
  take(256 * size_t{4});
  take((size_t{h.n_tokens} + 1) * 4);
  take(size_t{h.n_pair_slots} * sizeof(BytePairTable::Pair));
  take(size_t{h.n_piece_slots} * 4);
  take(size_t{kBlockNumbers} * 2);
  take(size_t{h.n_blocks} * kBlock);
  take(size_t{h.n_piece_bytes});
}

}  // namespace

BytePairTable::BytePairTable(std::span<const uint8_t> table) {
  Header h;
  if (table.size() < sizeof h || reinterpret_cast<uintptr_t>(table.data()) % 16 != 0) refuse("no table of byte pairs");
  std::memcpy(&h, table.data(), sizeof h);
  if (h.magic != kMagic || h.words > 3 || h.zero != 0) refuse("no table of byte pairs");
  if (!std::has_single_bit(h.n_pair_slots) || h.n_pair_slots > kMaxSlots || h.n_piece_slots > kMaxSlots ||
      (h.n_piece_slots != 0 && !std::has_single_bit(h.n_piece_slots)) || h.n_blocks == 0 || h.n_blocks > kBlockNumbers) {
    refuse("a table of byte pairs with wrong sizes");
  }
  size_t at = sizeof h;
  std::vector<const uint8_t*> parts;
  size_t ends[7];
  lay_out(h, [&](size_t size) {
    ends[parts.size()] = at;
    parts.push_back(nullptr);
    at += padded(size);
  });
  if (at != table.size()) refuse("a table of byte pairs of the wrong length");
  for (size_t i = 0; i < parts.size(); ++i) parts[i] = table.data() + ends[i];
  words_ = static_cast<Words>(h.words);
  n_tokens_ = h.n_tokens, n_pair_slots_ = h.n_pair_slots, n_piece_slots_ = h.n_piece_slots;
  n_blocks_ = h.n_blocks, n_piece_bytes_ = h.n_piece_bytes;
  byte_ids_ = reinterpret_cast<const uint32_t*>(parts[0]);
  offsets_ = reinterpret_cast<const uint32_t*>(parts[1]);
  pairs_ = reinterpret_cast<const Pair*>(parts[2]);
  piece_slots_ = reinterpret_cast<const uint32_t*>(parts[3]);
  block_numbers_ = reinterpret_cast<const uint16_t*>(parts[4]);
  blocks_ = parts[5], piece_bytes_ = parts[6];
}

std::string_view BytePairTable::piece(uint32_t id) const {
  if (id >= n_tokens_) return {};
  const uint32_t start = offsets_[id], end = offsets_[id + 1];
  if (start > end || end > n_piece_bytes_) refuse("a damaged table of byte pairs");
  return {reinterpret_cast<const char*>(piece_bytes_) + start, end - start};
}

const BytePairTable::Pair* BytePairTable::find(uint32_t left, uint32_t right) const {
  const uint32_t mask = n_pair_slots_ - 1;
  uint32_t slot = hash_pair(left, right) & mask;
  for (uint32_t n = 0; n <= mask; ++n, slot = (slot + 1) & mask) {
    const Pair& pair = pairs_[slot];
    if (pair.id == kNoId) return nullptr;
    if (pair.left == left && pair.right == right) return pair.id < n_tokens_ ? &pair : nullptr;
  }
  return nullptr;
}

uint32_t BytePairTable::find_piece(std::string_view bytes) const {
  if (n_piece_slots_ == 0) return kNoId;
  const uint32_t mask = n_piece_slots_ - 1;
  uint32_t slot = hash_bytes(bytes) & mask;
  for (uint32_t n = 0; n <= mask; ++n, slot = (slot + 1) & mask) {
    const uint32_t id = piece_slots_[slot];
    if (id == kNoId) return kNoId;
    if (piece(id) == bytes) return id;
  }
  return kNoId;
}

uint8_t BytePairTable::class_of(uint32_t code_point) const {
  const uint32_t block = code_point < kCodePoints ? block_numbers_[code_point / kBlock] : n_blocks_;
  return block < n_blocks_ ? blocks_[block * kBlock + code_point % kBlock] : 0;
}

// One text on its way to ids.
class Encoding {
 public:
  Encoding(const BytePairTable& table, std::string_view text) : table_(table), text_(text) {
    chars_.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const auto start = static_cast<uint32_t>(at);
      const uint32_t code_point = next_code_point(text, at);
      chars_.push_back({code_point, start, table.class_of(code_point)});
    }
    chars_.push_back({0, static_cast<uint32_t>(text.size()), 0});
  }

  std::vector<int32_t> run() {
    const size_t n = chars_.size() - 1;
    for (size_t start = 0; start < n;) {
      size_t end = n;
      if (table_.words_ == Words::smollm) {  // each digit alone, and no rule sees across it
        for (end = start; end < n && !(chars_[end].kind & kDigit); ++end) {
        }
        if (end == start) end = start + 1;
      }
      for (end_ = end; start < end;) {
        const size_t stop = is_gpt2() ? gpt2_word(start) : later_word(start);
        merge(text_.substr(chars_[start].offset, chars_[stop].offset - chars_[start].offset));
        start = stop;
      }
    }
    return std::move(ids_);
  }

 private:
  struct Char {
    uint32_t code_point, offset;
    uint8_t kind;
  };
  struct Candidate {
    uint32_t rank, id;
  };

  bool is_gpt2() const { return table_.words_ == Words::gpt2 || table_.words_ == Words::smollm; }
  bool is(size_t at, uint32_t code_point) const { return at < end_ && chars_[at].code_point == code_point; }
  bool in(size_t at, uint8_t kinds) const { return at < end_ && (chars_[at].kind & kinds); }
  bool is_other(size_t at) const { return at < end_ && !(chars_[at].kind & (kLetter | kNumber | kSpace)); }
  bool is_line_end(size_t at) const { return is(at, '\r') || is(at, '\n'); }

  size_t run_of(size_t at, uint8_t kinds) const {
    while (in(at, kinds)) ++at;
    return at;
  }
  size_t run_of_others(size_t at) const {
    while (is_other(at)) ++at;
    return at;
  }

  // The end of 's 't 're 've 'm 'll 'd at `at`, or `at`. In any case, U+017F is an s.
  size_t contraction(size_t at, bool any_case) const {
    if (!is(at, '\'') || at + 1 >= end_) return at;
    const auto letter = [&](size_t i) -> uint32_t {
      if (i >= end_) return 0;
      const uint32_t c = chars_[i].code_point;
      return !any_case ? c : c == 0x17f ? 's' : c >= 'A' && c <= 'Z' ? c + 32 : c;
    };
    const uint32_t first = letter(at + 1), second = letter(at + 2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
    const bool is_pair = (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
    return is_pair ? at + 3 : at;
  }

  // \s+(?!\S)|\s+ : a run of spaces without its last, where something follows and the run is longer than one.
  size_t spaces(size_t at) const {
    const size_t stop = run_of(at, kSpace);
    return stop < end_ && stop - at > 1 ? stop - 1 : stop;
  }

  // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  size_t gpt2_word(size_t at) const {
    if (const size_t stop = contraction(at, false); stop > at) return stop;
    const size_t start = at + is(at, ' ');
    if (in(start, kLetter)) return run_of(start, kLetter);
    if (in(start, kNumber)) return run_of(start, kNumber);
    if (is_other(start)) return run_of_others(start);
    return spaces(at);
  }

  // (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  // with \p{N} in place of \p{N}{1,3} for qwen2.
  size_t later_word(size_t at) const {
    if (const size_t stop = contraction(at, true); stop > at) return stop;
    if (in(at, kLetter)) return run_of(at, kLetter);
    if (!is_line_end(at) && !in(at, kNumber) && in(at + 1, kLetter)) return run_of(at + 1, kLetter);
    if (in(at, kNumber)) {
      const size_t most = table_.words_ == Words::llama3 ? 3 : 1;
      size_t stop = at + 1;
      while (stop < at + most && in(stop, kNumber)) ++stop;
      return stop;
    }
    if (const size_t start = at + is(at, ' '); is_other(start)) {
      size_t stop = run_of_others(start);
      while (is_line_end(stop)) ++stop;
      return stop;
    }
    size_t stop = run_of(at, kSpace);
    while (stop > at && !is_line_end(stop - 1)) --stop;
    return stop > at ? stop : spaces(at);
  }

  void merge(std::string_view word) {
    if (const uint32_t id = table_.find_piece(word); id != kNoId) {
      ids_.push_back(static_cast<int32_t>(id));
      return;
    }
    parts_.clear();
    for (const char c : word) {
      const uint32_t id = table_.byte_ids_[static_cast<uint8_t>(c)];
      if (id < table_.n_tokens_) parts_.push_back(id);
    }
    if (parts_.size() <= kShortWord) {
      merge_short();
    } else {
      merge_long();
    }
    ids_.insert(ids_.end(), parts_.begin(), parts_.end());
  }

  Candidate candidate(uint32_t left, uint32_t right) const {
    const BytePairTable::Pair* pair = table_.find(left, right);
    return pair ? Candidate{pair->rank, pair->id} : Candidate{kNoId, kNoId};
  }

  void merge_short() {
    size_t n = parts_.size();
    Candidate next[kShortWord];  // of parts i and i + 1
    for (size_t i = 0; i + 1 < n; ++i) next[i] = candidate(parts_[i], parts_[i + 1]);
    while (n > 1) {
      size_t best = 0;
      for (size_t i = 1; i + 1 < n; ++i) best = next[i].rank < next[best].rank ? i : best;
      if (next[best].id == kNoId) break;
      parts_[best] = next[best].id;
      std::copy(parts_.begin() + best + 2, parts_.begin() + n, parts_.begin() + best + 1);
      std::copy(next + best + 1, next + n - 1, next + best);
      --n;
      if (best > 0) next[best - 1] = candidate(parts_[best - 1], parts_[best]);
      if (best + 1 < n) next[best] = candidate(parts_[best], parts_[best + 1]);
    }
    parts_.resize(n);
  }

  void merge_long() {
    const size_t n = parts_.size();
    std::vector<uint32_t> before(n), after(n);
    std::vector<Candidate> next(n, Candidate{kNoId, kNoId});
    std::vector<uint64_t> first;  // (rank, position); one is out of date where next[position] has another rank
    const auto look = [&](size_t i) {
      next[i] = after[i] < n ? candidate(parts_[i], parts_[after[i]]) : Candidate{kNoId, kNoId};
      return next[i].id != kNoId;
    };
    const auto key = [&](size_t i) { return uint64_t{next[i].rank} << 32 | i; };
    for (size_t i = 0; i < n; ++i) {
      before[i] = static_cast<uint32_t>(i - 1);
      after[i] = static_cast<uint32_t>(i + 1);
      if (look(i)) first.push_back(key(i));
    }
    std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> queue({}, std::move(first));
    while (!queue.empty()) {
      const size_t i = queue.top() & 0xffffffff;
      const auto rank = static_cast<uint32_t>(queue.top() >> 32);
      queue.pop();
      if (next[i].id == kNoId || next[i].rank != rank) continue;
      const size_t gone = after[i];
      parts_[i] = next[i].id;
      parts_[gone] = kNoId;
      next[gone] = {kNoId, kNoId};
      after[i] = after[gone];
      if (after[i] < n) before[after[i]] = static_cast<uint32_t>(i);
      if (look(i)) queue.push(key(i));
      if (i > 0 && look(before[i])) queue.push(key(before[i]));
    }
    std::erase(parts_, kNoId);
  }

  const BytePairTable& table_;
  std::string_view text_;
  std::vector<Char> chars_;
  size_t end_ = 0;  // rules see characters before this one
  std::vector<uint32_t> parts_;
  std::vector<int32_t> ids_;
};

std::vector<int32_t> BytePairTable::encode(std::string_view text) const {
  if (text.size() >= kNoId) refuse("a text of 4 GiB or more");
  return Encoding(*this, text).run();
}

std::vector<uint8_t> build_byte_pair_table(const BytePairSource& source) {
  const std::vector<std::string>& pieces = source.pieces;
  if (source.roles.size() != pieces.size() || source.char_classes.size() != kCodePoints || pieces.size() >= kMaxSlots / 2) {
    refuse("roles or classes do not fit the pieces");
  }
  std::unordered_map<std::string_view, uint32_t> ids;
  ids.reserve(pieces.size());
  for (uint32_t id = 0; id < pieces.size(); ++id) {
    if (source.roles[id] != BytePairSource::is_hidden) ids.emplace(pieces[id], id);
  }
  std::vector<uint8_t> is_used(pieces.size());
  for (size_t id = 0; id < pieces.size(); ++id) is_used[id] = source.roles[id] == BytePairSource::is_ordinary;

  Header h{kMagic, static_cast<uint32_t>(source.words), static_cast<uint32_t>(pieces.size()), 16, 0, 0, 0, 0};
  while (h.n_pair_slots < source.merges.size() + source.merges.size() / 2) h.n_pair_slots *= 2;
  std::vector<BytePairTable::Pair> pairs(h.n_pair_slots, {0, 0, 0, kNoId});
  std::string whole;
  for (uint32_t rank = 0; rank < source.merges.size(); ++rank) {
    const std::string_view merge = source.merges[rank];
    const size_t space = std::min(merge.find(' '), merge.size() - 1);
    const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    if (merge.empty() || left.empty() || right.empty() || right.find(' ') != right.npos) {
      refuse("number " + std::to_string(rank));
    }
    whole.assign(left).append(right);
    uint32_t found[3];
    for (int i = 0; const std::string_view text : {left, right, std::string_view(whole)}) {
      const auto entry = ids.find(text);
      if (entry == ids.end()) refuse("Token `" + std::string(text) + "` out of vocabulary");
      is_used[found[i++] = entry->second] = 1;
    }
    uint32_t slot = hash_pair(found[0], found[1]) & (h.n_pair_slots - 1);
    while (pairs[slot].id != kNoId && (pairs[slot].left != found[0] || pairs[slot].right != found[1])) {
      slot = (slot + 1) & (h.n_pair_slots - 1);
    }
    pairs[slot] = {found[0], found[1], rank, found[2]};  // of two alike the last one counts
  }

  // GPT-2's spelling: printable Latin-1 stands for itself, the other bytes for U+0100 and on, in order.
  std::vector<int> byte_of_char(0x144, -1);
  for (int byte = 0, n_others = 0; byte < 256; ++byte) {
    const bool is_printable = (byte >= 0x21 && byte < 0x7f) || (byte >= 0xa1 && byte < 0xad) || byte >= 0xae;
    byte_of_char[is_printable ? byte : 0x100 + n_others++] = byte;
  }
  std::vector<uint32_t> byte_ids(256, kNoId), offsets(1, 0), spelled;
  std::string bytes, one;
  for (uint32_t id = 0; id < pieces.size(); ++id) {
    one.clear();
    bool is_spelled = is_used[id];
    for (size_t at = 0; is_spelled && at < pieces[id].size();) {
      const uint32_t c = next_code_point(pieces[id], at);
      is_spelled = c < byte_of_char.size() && byte_of_char[c] >= 0;
      if (is_spelled) one.push_back(static_cast<char>(byte_of_char[c]));
    }
    if (is_spelled && one.size() == 1) byte_ids[static_cast<uint8_t>(one[0])] = id;
    if (is_spelled) spelled.push_back(id);
    if (is_used[id]) bytes += is_spelled ? one : pieces[id];
    if (bytes.size() >= kNoId) refuse("pieces of 4 GiB or more");
    offsets.push_back(static_cast<uint32_t>(bytes.size()));
  }
  std::vector<uint32_t> piece_slots;
  if (source.looks_up_words) {
    h.n_piece_slots = 16;
    while (h.n_piece_slots < spelled.size() + spelled.size() / 2) h.n_piece_slots *= 2;
    piece_slots.assign(h.n_piece_slots, kNoId);
    for (const uint32_t id : spelled) {
      const std::string_view text(bytes.data() + offsets[id], offsets[id + 1] - offsets[id]);
      uint32_t slot = hash_bytes(text) & (h.n_piece_slots - 1);
      while (piece_slots[slot] != kNoId) slot = (slot + 1) & (h.n_piece_slots - 1);
      piece_slots[slot] = id;
    }
  }

  std::vector<uint16_t> block_numbers;
  std::string blocks;
  std::unordered_map<std::string_view, uint16_t> seen;
  for (uint32_t start = 0; start < kCodePoints; start += kBlock) {
    const std::string_view block(reinterpret_cast<const char*>(source.char_classes.data()) + start, kBlock);
    const auto [entry, is_new] = seen.emplace(block, static_cast<uint16_t>(seen.size()));
    if (is_new) blocks += block;
    block_numbers.push_back(entry->second);
  }
  h.n_blocks = static_cast<uint32_t>(seen.size());
  h.n_piece_bytes = static_cast<uint32_t>(bytes.size());

  size_t size = sizeof h, at = sizeof h, part = 0;
  lay_out(h, [&](size_t part_size) { size += padded(part_size); });
  std::vector<uint8_t> table(size);
  std::memcpy(table.data(), &h, sizeof h);
  const void* parts[] = {byte_ids.data(), offsets.data(), pairs.data(), piece_slots.data(), block_numbers.data(), blocks.data(),
                         bytes.data()};
  lay_out(h, [&](size_t part_size) {
    if (part_size > 0) std::memcpy(table.data() + at, parts[part], part_size);
    at += padded(part_size);
    ++part;
  });
  return table;
}

}  // namespace samovar
