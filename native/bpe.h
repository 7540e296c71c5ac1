// Byte-level byte-pair encoding from one flat table, which lies in a mapped file or in memory.
//
// Encoding: a text is cut into words by one of four rules (`Words`); each word is a row of bytes, each byte an id; of all
// neighbouring pairs that can merge, the one with the lowest rank (among equals the leftmost) is merged, until none is left.
// Source: Sennrich, Haddow and Birch (2016), in GPT-2's spelling of bytes. Bytes without a token are left out first.
//
// Layout, little-endian, each part padded to 16 bytes: Header; ids of the 256 bytes, u32; where pieces begin, u32
// [n_tokens + 1]; Pair [n_pair_slots], hashed by (left, right) with linear probing; u32 ids [n_piece_slots], hashed by their
// bytes (only where whole words are looked up first); u16 block numbers of the code points' classes [0x1100]; blocks of 256
// class bytes; the bytes of all pieces. Everything that is read from a table is checked against its bounds when it is read,
// so that opening touches one page and a damaged table gives wrong ids or an error, never an access outside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace samovar {

constexpr uint32_t kNoId = 0xffffffff;

// The rules that cut a text into words, as regular expressions in bpe.cpp.
enum class Words : uint32_t { gpt2 = 0, smollm = 1, qwen2 = 2, llama3 = 3 };

// Bits of a code point's class: \p{L}, \p{N}, \s, and what is split off digit by digit.
enum CharClass : uint8_t { kLetter = 1, kNumber = 2, kSpace = 4, kDigit = 8 };

class BytePairTable {
 public:
  // Throws std::invalid_argument for bytes that are no table. The bytes must stay where they are.
  explicit BytePairTable(std::span<const uint8_t> table);

  int64_t n_tokens() const { return n_tokens_; }
  // The ids of a text, given as UTF-8. Cost: n log n in the longest word.
  std::vector<int32_t> encode(std::string_view text) const;
  // The bytes an id stands for, empty where it is no piece. Throws std::invalid_argument where the table is damaged.
  std::string_view piece(uint32_t id) const;

  struct Pair {
    uint32_t left, right, rank, id;  // id is kNoId in a free slot
  };

 private:
  friend class Encoding;
  const Pair* find(uint32_t left, uint32_t right) const;
  uint32_t find_piece(std::string_view bytes) const;
  uint8_t class_of(uint32_t code_point) const;

  Words words_;
  uint32_t n_tokens_, n_pair_slots_, n_piece_slots_, n_blocks_, n_piece_bytes_;
  const uint32_t *byte_ids_, *offsets_, *piece_slots_;
  const Pair* pairs_;
  const uint16_t* block_numbers_;
  const uint8_t *blocks_, *piece_bytes_;
};

// What a table is made from. Pieces and merges ("left right") are in GPT-2's spelling; a piece that is `is_ordinary` is part
// of the vocabulary, any other only if a merge names it and it is not `is_hidden`.
struct BytePairSource {
  enum Role : uint8_t { is_hidden = 0, is_ordinary = 1, is_named = 2 };
  std::vector<std::string> pieces, merges;
  std::span<const uint8_t> roles;         // [pieces]
  std::span<const uint8_t> char_classes;  // [0x110000]
  Words words;
  bool looks_up_words;  // a word that is a piece is that piece, whatever merges say
};

// Throws std::invalid_argument, saying which merge does not fit.
std::vector<uint8_t> build_byte_pair_table(const BytePairSource& source);

}  // namespace samovar
