// PagePool: reference counts of KV pages, the prefix tree over them, its eviction order, and the snapshots of state on its nodes.
//
//   PageId p = pool.take();                                   // evicts the oldest unreferenced cached page if none is unused
//   pool.insert(p, parent, context, tokens, extra_ids);       // a full page becomes findable
//   pool.release(p);                                          // unreferenced: cached if it is in the tree, else unused
//
// A tree node is a page, so the tree needs no storage of its own. A page at the root has parent kNone and is told apart by its
// context. Lookups compare tokens, never hashes alone: a hash collision cannot lead to foreign KV.
//
// A page is unreferenced before its parent is (whoever holds a page holds its ancestors, and releases them after it), so the list
// ordered by release time never yields a parent before its children.
//
// Thread rule: one owner.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sched/step_plan.h"

namespace ingot::sched {

// What besides the tokens decides the KV of a prefix.
struct PrefixContext {
  uint64_t salt = 0;
  int adapter = 0;
  int rope_regime = 0;
  bool operator==(const PrefixContext&) const = default;
};

class PagePool {
 public:
  // Snapshot rows are [first_snapshot, first_snapshot + snapshots).
  PagePool(int pages, int page_tokens, int first_snapshot, int snapshots);

  int pages() const { return static_cast<int>(nodes_.size()); }
  int available() const { return static_cast<int>(unused_.size()) + cached_; }  // unused, or cached and unreferenced
  int cached() const { return cached_; }
  int references(PageId page) const { return nodes_[value(page)].references; }
  bool in_tree(PageId page) const { return nodes_[value(page)].in_tree; }

  PageId take();
  void retain(PageId page);
  void release(PageId page);

  // `tokens` and `extra_ids` cover one page; extra_ids is empty (all zero) or as long.
  PageId find(PageId parent, const PrefixContext& context, std::span<const Token> tokens,
              std::span<const uint64_t> extra_ids) const;
  void insert(PageId page, PageId parent, const PrefixContext& context, std::span<const Token> tokens,
              std::span<const uint64_t> extra_ids);

  bool has_snapshots() const { return !owner_.empty(); }
  StateId snapshot(PageId page) const { return nodes_[value(page)].snapshot; }
  StateId take_snapshot();  // the one unused for longest is taken from its page; kNone if every row is held by a sequence
  void attach(PageId page, StateId row);  // drops the row if the page has one
  void touch(PageId page);                // its snapshot was used
  void drop_snapshot(StateId row);

  // Stops the process if a count, list or link is wrong. `held` [pages]: references that the caller knows of.
  void check(std::span<const int> held) const;

 private:
  static constexpr int kNil = -1;
  struct Node {
    int references = 0;
    bool in_tree = false;
    int parent = kNil;
    int older = kNil, newer = kNil;  // neighbours in the order of release, while cached and unreferenced
    int chain = kNil;                // next page of the same hash bucket
    uint64_t hash = 0;
    PrefixContext context;
    StateId snapshot = StateId::kNone;
  };
  struct Links {      // of a snapshot row
    int page = kNil;  // kNil: unused, or held by a sequence
    int older = kNil, newer = kNil;
  };

  uint64_t hash(PageId parent, const PrefixContext& context, std::span<const Token> tokens,
                std::span<const uint64_t> extra_ids) const;
  bool equal(const Node& node, int page, PageId parent, const PrefixContext& context, std::span<const Token> tokens,
             std::span<const uint64_t> extra_ids) const;
  void evict_oldest();
  void append_released(int page);
  void unlink_released(int page);
  void append_used(int row);
  void unlink_used(int row);

  int page_tokens_;
  std::vector<Node> nodes_;
  std::vector<Token> tokens_;          // [pages, page_tokens] of the pages in the tree
  std::vector<uint64_t> extra_ids_;    // the same; empty until the first extra id is seen
  std::vector<int> buckets_;           // heads of the chains; a power of two
  std::vector<int> unused_;            // stack
  int oldest_ = kNil, newest_ = kNil;  // cached and unreferenced pages
  int cached_ = 0;

  int first_snapshot_;
  std::vector<Links> owner_;
  std::vector<int> unused_snapshots_;
  int oldest_snapshot_ = kNil, newest_snapshot_ = kNil;
};

}  // namespace ingot::sched
