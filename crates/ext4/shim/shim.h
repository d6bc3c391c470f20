/*
 * A narrow door to libext2fs: one file system, opened over two callbacks.
 *
 * The shim holds no policy. It knows how an inode is laid out and how the
 * library wants to be called; what is written, in which order and with which
 * limits is decided by the Rust side. Every function returns 0 or an error
 * code of com_err.
 */
#ifndef BULLION_EXT4_SHIM_H
#define BULLION_EXT4_SHIM_H

#include <stddef.h>
#include <stdint.h>

typedef struct shim_fs shim_fs;
typedef struct shim_xattrs shim_xattrs;

/* 0 on success; anything else is turned into a short read or write. */
typedef int (*shim_read_fn)(void *context, uint64_t offset, void *buffer, size_t length);
typedef int (*shim_write_fn)(void *context, uint64_t offset, const void *buffer, size_t length);

enum shim_error_class {
	SHIM_OTHER = 0,
	SHIM_NOT_FOUND = 1,
	SHIM_NO_SPACE = 2,
};

struct shim_info {
	uint64_t blocks;
	uint64_t free_blocks;
	uint32_t block_size;
	uint32_t inode_size;
	uint32_t feature_compat;
	uint32_t feature_incompat;
	uint32_t feature_ro_compat;
	uint32_t state;
};

struct shim_time {
	int64_t seconds;
	uint32_t nanoseconds;
	uint32_t pad;
};

struct shim_inode {
	uint64_t size;
	struct shim_time mtime;
	struct shim_time ctime;
	uint32_t mode;
	uint32_t uid;
	uint32_t gid;
	uint32_t links;
	uint32_t flags;
	uint32_t major;
	uint32_t minor;
	uint32_t has_content; /* 1 when at least one block is mapped, or bytes sit in the inode */
};

typedef int (*shim_entry_fn)(void *context, const char *name, size_t length, uint32_t inode, uint32_t type);
typedef int (*shim_xattr_fn)(void *context, const char *name, size_t length);

long shim_open(void *context, shim_read_fn read, shim_write_fn write, int writable, int64_t clock, shim_fs **out);
long shim_commit(shim_fs *fs);
void shim_abandon(shim_fs *fs);
void shim_info(const shim_fs *fs, struct shim_info *out);
const char *shim_error_text(long code);
const char *shim_library_version(void);
enum shim_error_class shim_classify(long code);

long shim_lookup(shim_fs *fs, uint32_t directory, const char *name, size_t length, uint32_t *out);
long shim_list(shim_fs *fs, uint32_t directory, shim_entry_fn entry, void *context);
long shim_stat(shim_fs *fs, uint32_t inode, struct shim_inode *out);
/* Permission bits, owner and mtime as given; atime = mtime, ctime = clock. */
long shim_set_meta(shim_fs *fs, uint32_t inode, const struct shim_inode *meta);
long shim_set_links(shim_fs *fs, uint32_t inode, uint32_t links);
long shim_set_size(shim_fs *fs, uint32_t inode, uint64_t size);

/* A new inode without a name. `mode` holds the type too. */
long shim_new_inode(shim_fs *fs, uint32_t parent, uint32_t mode, uint32_t major, uint32_t minor, uint32_t *out);
long shim_new_directory(shim_fs *fs, uint32_t parent, uint32_t *out);
long shim_new_symlink(shim_fs *fs, uint32_t parent, const char *target, uint32_t *out);
/* Blocks, extended attributes and the inode itself; dtime = clock. */
long shim_free_inode(shim_fs *fs, uint32_t inode);

long shim_link(shim_fs *fs, uint32_t directory, const char *name, uint32_t inode, uint32_t mode);
long shim_unlink(shim_fs *fs, uint32_t directory, const char *name, uint32_t inode);

/* Whole blocks. Writing maps what is not mapped yet; reading a hole gives zeros. */
long shim_write_blocks(shim_fs *fs, uint32_t inode, uint64_t first, uint32_t count, const uint8_t *data);
long shim_read_blocks(shim_fs *fs, uint32_t inode, uint64_t first, uint32_t count, uint8_t *data);
long shim_punch(shim_fs *fs, uint32_t inode, uint64_t first, uint64_t last);
long shim_readlink(shim_fs *fs, uint32_t inode, char *buffer, size_t capacity, size_t *length);

long shim_xattrs_open(shim_fs *fs, uint32_t inode, shim_xattrs **out);
long shim_xattrs_names(shim_xattrs *xattrs, shim_xattr_fn name, void *context);
long shim_xattrs_get(shim_xattrs *xattrs, const char *name, void **value, size_t *length);
void shim_value_free(void *value);
long shim_xattrs_set(shim_xattrs *xattrs, const char *name, const void *value, size_t length);
long shim_xattrs_remove(shim_xattrs *xattrs, const char *name);
long shim_xattrs_write(shim_xattrs *xattrs);
void shim_xattrs_close(shim_xattrs *xattrs);

#endif
