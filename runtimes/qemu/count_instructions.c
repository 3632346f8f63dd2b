// SPDX-License-Identifier: Apache-2.0
// A TCG plugin for user-mode QEMU: executed guest instructions, by file and address.
//
//   qemu-aarch64 -plugin libssmpress_count.so,out=FILE ...
//
// At the end it writes lines "<instructions> <offset, hex> <file>" to FILE: one for each translated
// block of code, named by its place in the file that the guest mapped it from, so that a reader
// with that file's symbol table knows the function. Code without a file is "-" with its address.
// A line "total <instructions>" closes the file; without it the run was cut short.
//
// Counts are exact for one guest thread. With more the additions are not atomic and some are lost.
//
// Distributions ship no qemu-plugin.h with their binaries, so the few functions used are declared
// here, as of API version 1 (QEMU 4.2 to 8.2).
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { QEMU_PLUGIN_INLINE_ADD_U64 = 0 };
typedef void (*tb_callback)(qemu_plugin_id_t, struct qemu_plugin_tb*);
typedef void (*end_callback)(qemu_plugin_id_t, void*);

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_callback);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb*, int, void*, uint64_t);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, end_callback, void*);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb*);
extern struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
extern void* qemu_plugin_insn_haddr(const struct qemu_plugin_insn*);

EXPORT int qemu_plugin_version = 1;

typedef struct {
  uint64_t low, high, offset;  // host addresses, and the offset of `low` in the file
  const char* file;
} Mapping;

typedef struct Block {
  uint64_t executed, instructions;  // times run; instructions each time
  uint64_t place;                   // offset in the file, or the guest address without one
  const char* file;
  struct Block* next;
} Block;

enum { kBuckets = 1 << 16 };
static Block* buckets[kBuckets];
static Mapping* mappings;
static size_t mapping_count;
static const char* out_path;
static const char kNoFile[] = "-";

// One copy of each name, never freed: mappings come and go, blocks keep pointing to their file.
static const char* intern(const char* name) {
  static const char** names;
  static size_t count;
  for (size_t i = 0; i < count; ++i) {
    if (strcmp(names[i], name) == 0) return names[i];
  }
  const char** grown = realloc(names, (count + 1) * sizeof *names);
  char* copy = strdup(name);
  if (grown == NULL || copy == NULL) abort();
  names = grown;
  names[count++] = copy;
  return copy;
}

// In user mode the guest's files are mapped by this process, so its own map has them.
static void read_mappings(void) {
  FILE* file = fopen("/proc/self/maps", "r");
  if (file == NULL) return;
  mapping_count = 0;
  char line[4608];
  while (fgets(line, sizeof line, file) != NULL) {
    uint64_t low, high, offset;
    int name_at = 0;
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64 " %*s %*s %n", &low, &high, &offset,
               &name_at) < 3 || name_at == 0) {
      continue;
    }
    char* name = line + name_at;
    name[strcspn(name, "\n")] = '\0';
    if (name[0] != '/') continue;
    Mapping* grown = realloc(mappings, (mapping_count + 1) * sizeof *mappings);
    if (grown == NULL) abort();
    mappings = grown;
    mappings[mapping_count++] = (Mapping){low, high, offset, intern(name)};
  }
  fclose(file);
}

static const Mapping* find_mapping(uint64_t address) {
  for (size_t i = 0; i < mapping_count; ++i) {
    if (mappings[i].low <= address && address < mappings[i].high) return &mappings[i];
  }
  return NULL;
}

// QEMU holds a lock while it translates: no two calls at once. A block may be translated again,
// then its old counter goes on.
static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
  (void)id;
  const size_t instructions = qemu_plugin_tb_n_insns(tb);
  if (instructions == 0) return;
  const uint64_t address = (uint64_t)(uintptr_t)qemu_plugin_insn_haddr(
      qemu_plugin_tb_get_insn(tb, 0));
  const Mapping* mapping = find_mapping(address);
  if (mapping == NULL) {
    read_mappings();
    mapping = find_mapping(address);
  }
  const char* file = mapping == NULL ? kNoFile : mapping->file;
  const uint64_t place =
      mapping == NULL ? qemu_plugin_tb_vaddr(tb) : address - mapping->low + mapping->offset;
  const size_t bucket = (place ^ ((uintptr_t)file >> 4) * 31 ^ instructions << 8) % kBuckets;
  Block* block = buckets[bucket];
  while (block != NULL && (block->place != place || block->file != file ||
                           block->instructions != instructions)) {
    block = block->next;
  }
  if (block == NULL) {
    block = calloc(1, sizeof *block);
    if (block == NULL) abort();
    *block = (Block){0, instructions, place, file, buckets[bucket]};
    buckets[bucket] = block;
  }
  qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->executed, 1);
}

static void finished(qemu_plugin_id_t id, void* data) {
  (void)id;
  (void)data;
  FILE* out = fopen(out_path, "w");
  if (out == NULL) {
    perror(out_path);
    return;
  }
  uint64_t total = 0;
  for (size_t i = 0; i < kBuckets; ++i) {
    for (const Block* block = buckets[i]; block != NULL; block = block->next) {
      const uint64_t count = block->executed * block->instructions;
      if (count == 0) continue;
      total += count;
      fprintf(out, "%" PRIu64 " %" PRIx64 " %s\n", count, block->place, block->file);
    }
  }
  fprintf(out, "total %" PRIu64 "\n", total);
  if (fclose(out) != 0) perror(out_path);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void* info, int argc, char** argv) {
  (void)info;
  for (int i = 0; i < argc; ++i) {
    if (strncmp(argv[i], "out=", 4) == 0) out_path = strdup(argv[i] + 4);
  }
  if (out_path == NULL) {
    fprintf(stderr, "ssmpress_count: expected an argument out=FILE; there is none\n");
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
