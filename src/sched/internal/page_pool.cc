#include "sched/internal/page_pool.h"

#include <algorithm>

#include "base/result.h"

namespace ingot::sched {
namespace {

// splitmix64's finaliser over a running value: every input bit reaches every output bit.
uint64_t mix(uint64_t h, uint64_t v) {
  h += v + 0x9e3779b97f4a7c15u;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
  return h ^ (h >> 31);
}

}  // namespace

PagePool::PagePool(int pages, int page_tokens, int first_snapshot, int snapshots)
    : page_tokens_(page_tokens),
      nodes_(static_cast<size_t>(pages)),
      tokens_(static_cast<size_t>(pages) * page_tokens),
      first_snapshot_(first_snapshot),
      owner_(static_cast<size_t>(snapshots)) {
  size_t buckets = 16;
  while (buckets < static_cast<size_t>(pages) * 2) buckets *= 2;  // chains of at most one half on average
  buckets_.assign(buckets, kNil);
  unused_.reserve(pages);
  for (int p = pages - 1; p >= 0; --p) unused_.push_back(p);  // page 0 is taken first
  for (int r = snapshots - 1; r >= 0; --r) unused_snapshots_.push_back(r);
}

PageId PagePool::take() {
  if (unused_.empty()) evict_oldest();
  const int page = unused_.back();
  unused_.pop_back();
  nodes_[page].references = 1;
  return PageId{page};
}

void PagePool::retain(PageId page) {
  Node& n = nodes_[value(page)];
  if (n.references == 0) {
    CHECK(n.in_tree, "page ", value(page), " is unused and cannot be retained");
    unlink_released(value(page));
  }
  ++n.references;
}

void PagePool::release(PageId page) {
  Node& n = nodes_[value(page)];
  CHECK(n.references > 0, "page ", value(page), " is released once more than it was retained");
  if (--n.references > 0) return;
  if (n.in_tree)
    append_released(value(page));
  else
    unused_.push_back(value(page));
}

uint64_t PagePool::hash(PageId parent, const PrefixContext& context, std::span<const Token> tokens,
                        std::span<const uint64_t> extra_ids) const {
  uint64_t h = 0;
  if (parent == PageId::kNone) {
    h = mix(mix(mix(h, context.salt), static_cast<uint64_t>(context.adapter)), static_cast<uint64_t>(context.rope_regime));
  } else {
    h = nodes_[value(parent)].hash;
  }
  for (Token t : tokens) h = mix(h, static_cast<uint32_t>(t));
  for (uint64_t e : extra_ids)
    if (e != 0) h = mix(h, e);
  return h;
}

bool PagePool::equal(const Node& node, int page, PageId parent, const PrefixContext& context, std::span<const Token> tokens,
                     std::span<const uint64_t> extra_ids) const {
  if (node.parent != value(parent)) return false;
  if (node.parent == kNil && !(node.context == context)) return false;
  const size_t at = static_cast<size_t>(page) * page_tokens_;
  if (!std::equal(tokens.begin(), tokens.end(), tokens_.begin() + at)) return false;
  if (extra_ids_.empty()) return std::all_of(extra_ids.begin(), extra_ids.end(), [](uint64_t e) { return e == 0; });
  for (int i = 0; i < page_tokens_; ++i)
    if (extra_ids_[at + i] != (extra_ids.empty() ? 0 : extra_ids[i])) return false;
  return true;
}

PageId PagePool::find(PageId parent, const PrefixContext& context, std::span<const Token> tokens,
                      std::span<const uint64_t> extra_ids) const {
  const uint64_t h = hash(parent, context, tokens, extra_ids);
  for (int p = buckets_[h & (buckets_.size() - 1)]; p != kNil; p = nodes_[p].chain)
    if (nodes_[p].hash == h && equal(nodes_[p], p, parent, context, tokens, extra_ids)) return PageId{p};
  return PageId::kNone;
}

void PagePool::insert(PageId page, PageId parent, const PrefixContext& context, std::span<const Token> tokens,
                      std::span<const uint64_t> extra_ids) {
  Node& n = nodes_[value(page)];
  CHECK(!n.in_tree && n.references > 0 && static_cast<int>(tokens.size()) == page_tokens_, "page ", value(page));
  CHECK(parent == PageId::kNone || nodes_[value(parent)].in_tree, "parent ", value(parent), " of page ", value(page));
  const size_t at = static_cast<size_t>(value(page)) * page_tokens_;
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + at);
  if (extra_ids_.empty() && std::any_of(extra_ids.begin(), extra_ids.end(), [](uint64_t e) { return e != 0; }))
    extra_ids_.assign(tokens_.size(), 0);
  if (!extra_ids_.empty())
    for (int i = 0; i < page_tokens_; ++i) extra_ids_[at + i] = extra_ids.empty() ? 0 : extra_ids[i];
  n.in_tree = true;
  n.parent = value(parent);
  n.context = context;
  n.hash = hash(parent, context, tokens, extra_ids);
  int& head = buckets_[n.hash & (buckets_.size() - 1)];
  n.chain = head;
  head = value(page);
}

void PagePool::evict_oldest() {
  CHECK(oldest_ != kNil, "a page is taken although none is available");
  const int page = oldest_;
  Node& n = nodes_[page];
  unlink_released(page);
  int* link = &buckets_[n.hash & (buckets_.size() - 1)];
  while (*link != page) link = &nodes_[*link].chain;
  *link = n.chain;
  if (n.snapshot != StateId::kNone) drop_snapshot(n.snapshot);
  n = Node{};
  unused_.push_back(page);
}

void PagePool::append_released(int page) {
  Node& n = nodes_[page];
  n.older = newest_;
  n.newer = kNil;
  (newest_ == kNil ? oldest_ : nodes_[newest_].newer) = page;
  newest_ = page;
  ++cached_;
}

void PagePool::unlink_released(int page) {
  Node& n = nodes_[page];
  (n.older == kNil ? oldest_ : nodes_[n.older].newer) = n.newer;
  (n.newer == kNil ? newest_ : nodes_[n.newer].older) = n.older;
  n.older = n.newer = kNil;
  --cached_;
}

StateId PagePool::take_snapshot() {
  if (unused_snapshots_.empty()) {
    if (oldest_snapshot_ == kNil) return StateId::kNone;
    drop_snapshot(StateId{first_snapshot_ + oldest_snapshot_});
  }
  const int row = unused_snapshots_.back();
  unused_snapshots_.pop_back();
  return StateId{first_snapshot_ + row};
}

void PagePool::attach(PageId page, StateId id) {
  Node& n = nodes_[value(page)];
  CHECK(n.in_tree, "page ", value(page), " is not in the tree and cannot carry a snapshot");
  if (n.snapshot != StateId::kNone) {
    drop_snapshot(id);
    return;
  }
  const int row = value(id) - first_snapshot_;
  n.snapshot = id;
  owner_[row].page = value(page);
  append_used(row);
}

void PagePool::touch(PageId page) {
  const int row = value(nodes_[value(page)].snapshot) - first_snapshot_;
  unlink_used(row);
  append_used(row);
}

void PagePool::drop_snapshot(StateId id) {
  const int row = value(id) - first_snapshot_;
  if (owner_[row].page != kNil) {
    nodes_[owner_[row].page].snapshot = StateId::kNone;
    owner_[row].page = kNil;
    unlink_used(row);
  }
  unused_snapshots_.push_back(row);
}

void PagePool::append_used(int row) {
  owner_[row].older = newest_snapshot_;
  owner_[row].newer = kNil;
  (newest_snapshot_ == kNil ? oldest_snapshot_ : owner_[newest_snapshot_].newer) = row;
  newest_snapshot_ = row;
}

void PagePool::unlink_used(int row) {
  Links& l = owner_[row];
  (l.older == kNil ? oldest_snapshot_ : owner_[l.older].newer) = l.newer;
  (l.newer == kNil ? newest_snapshot_ : owner_[l.newer].older) = l.older;
  l.older = l.newer = kNil;
}

void PagePool::check(std::span<const int> held) const {
  int unreferenced_in_tree = 0, idle = 0;
  std::vector<int> position(nodes_.size(), kNil);  // in the order of release
  int count = 0;
  for (int p = oldest_; p != kNil; p = nodes_[p].newer) position[p] = count++;
  CHECK(count == cached_, count, " pages are listed as cached, counted ", cached_);
  for (int p = 0; p < pages(); ++p) {
    const Node& n = nodes_[p];
    CHECK(n.references == held[p], "page ", p, " has ", n.references, " references, its holders know of ", held[p]);
    CHECK((position[p] != kNil) == (n.in_tree && n.references == 0), "page ", p);
    if (n.in_tree && n.references == 0) ++unreferenced_in_tree;
    if (!n.in_tree && n.references == 0) ++idle;
    if (n.in_tree && n.parent != kNil) {
      const Node& parent = nodes_[n.parent];
      CHECK(parent.in_tree, "page ", p, " hangs below page ", n.parent, ", which is not in the tree");
      CHECK(n.references == 0 || parent.references > 0, "page ", p, " is held, its parent ", n.parent, " is not");
      if (n.references == 0 && parent.references == 0) CHECK(position[p] < position[n.parent], "page ", p);
    }
    if (n.snapshot != StateId::kNone) CHECK(owner_[value(n.snapshot) - first_snapshot_].page == p, "snapshot of page ", p);
  }
  CHECK(idle == static_cast<int>(unused_.size()), idle, " pages are idle, ", unused_.size(), " listed as unused");
  CHECK(unreferenced_in_tree == cached_, unreferenced_in_tree, " != ", cached_);
}

}  // namespace ingot::sched
