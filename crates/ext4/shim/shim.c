#include "shim.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <ext2fs/ext2_fs.h>
#include <ext2fs/ext2fs.h>

struct shim_device {
	void *context;
	shim_read_fn read;
	shim_write_fn write;
	int writable;
};

struct shim_fs {
	ext2_filsys fs;
	struct shim_device device;
	int64_t clock;
};

struct shim_xattrs {
	struct ext2_xattr_handle *handle;
};

/* ---- the I/O manager ------------------------------------------------- */

/* ext2fs_open2 hands a name to the manager, not a context: this carries it. */
static _Thread_local struct shim_device *opening;

static struct struct_io_manager device_manager;

static errcode_t device_open(const char *name, int flags, io_channel *out)
{
	io_channel channel;
	errcode_t error;

	if (!opening)
		return EXT2_ET_BAD_DEVICE_NAME;
	error = ext2fs_get_memzero(sizeof(*channel), &channel);
	if (error)
		return error;
	error = ext2fs_get_memzero(strlen(name) + 1, &channel->name);
	if (error) {
		ext2fs_free_mem(&channel);
		return error;
	}
	strcpy(channel->name, name);
	channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
	channel->manager = &device_manager;
	channel->block_size = 1024;
	channel->refcount = 1;
	channel->private_data = opening;
	*out = channel;
	return 0;
}

static errcode_t device_close(io_channel channel)
{
	EXT2_CHECK_MAGIC(channel, EXT2_ET_MAGIC_IO_CHANNEL);
	if (--channel->refcount > 0)
		return 0;
	ext2fs_free_mem(&channel->name);
	ext2fs_free_mem(&channel);
	return 0;
}

static errcode_t device_set_block_size(io_channel channel, int size)
{
	channel->block_size = size;
	return 0;
}

/* A negative count is a number of bytes; a positive one, of blocks. */
static size_t byte_count(io_channel channel, int count)
{
	if (count < 0)
		return (size_t)(-(int64_t)count);
	return (size_t)count * (size_t)channel->block_size;
}

static errcode_t device_read64(io_channel channel, unsigned long long block, int count, void *data)
{
	struct shim_device *device = channel->private_data;
	uint64_t offset = (uint64_t)block * (uint64_t)channel->block_size;

	if (device->read(device->context, offset, data, byte_count(channel, count)))
		return EXT2_ET_SHORT_READ;
	return 0;
}

static errcode_t device_write64(io_channel channel, unsigned long long block, int count, const void *data)
{
	struct shim_device *device = channel->private_data;
	uint64_t offset = (uint64_t)block * (uint64_t)channel->block_size;

	if (!device->writable)
		return EXT2_ET_RO_FILSYS;
	if (device->write(device->context, offset, data, byte_count(channel, count)))
		return EXT2_ET_SHORT_WRITE;
	return 0;
}

static errcode_t device_read(io_channel channel, unsigned long block, int count, void *data)
{
	return device_read64(channel, block, count, data);
}

static errcode_t device_write(io_channel channel, unsigned long block, int count, const void *data)
{
	return device_write64(channel, block, count, data);
}

static errcode_t device_flush(io_channel channel)
{
	return 0;
}

/*
 * No get_stats: the library would add what it wrote to s_kbytes_written, and
 * the number depends on the library's cache and not on the result.
 */
static struct struct_io_manager device_manager = {
	.magic = EXT2_ET_MAGIC_IO_MANAGER,
	.name = "bullion block device",
	.open = device_open,
	.close = device_close,
	.set_blksize = device_set_block_size,
	.read_blk = device_read,
	.write_blk = device_write,
	.flush = device_flush,
	.read_blk64 = device_read64,
	.write_blk64 = device_write64,
};

/* ---- the file system ------------------------------------------------- */

static pthread_once_t error_table_once = PTHREAD_ONCE_INIT;

long shim_open(void *context, shim_read_fn read, shim_write_fn write, int writable, int64_t clock, shim_fs **out)
{
	shim_fs *self = calloc(1, sizeof(*self));
	int flags = EXT2_FLAG_64BITS;
	errcode_t error;

	if (!self)
		return ENOMEM;
	pthread_once(&error_table_once, initialize_ext2_error_table);
	self->device = (struct shim_device){context, read, write, writable};
	self->clock = clock;
	if (writable)
		flags |= EXT2_FLAG_RW;
	opening = &self->device;
	error = ext2fs_open2("bullion", NULL, flags, 0, 0, &device_manager, &self->fs);
	opening = NULL;
	if (error) {
		free(self);
		return error;
	}
	/* Backup superblocks stay as mke2fs made them, as the kernel leaves them too. */
	self->fs->flags |= EXT2_FLAG_MASTER_SB_ONLY;
	self->fs->now = (time_t)clock;
	if (writable) {
		error = ext2fs_read_bitmaps(self->fs);
		if (error) {
			shim_abandon(self);
			return error;
		}
	}
	*out = self;
	return 0;
}

long shim_commit(shim_fs *self)
{
	errcode_t error = ext2fs_flush(self->fs);

	shim_abandon(self);
	return error;
}

void shim_abandon(shim_fs *self)
{
	ext2fs_free(self->fs);
	free(self);
}

void shim_info(const shim_fs *self, struct shim_info *out)
{
	const struct ext2_super_block *super = self->fs->super;

	out->blocks = ext2fs_blocks_count((struct ext2_super_block *)super);
	out->free_blocks = ext2fs_free_blocks_count((struct ext2_super_block *)super);
	out->block_size = self->fs->blocksize;
	out->inode_size = EXT2_INODE_SIZE(super);
	out->feature_compat = super->s_feature_compat;
	out->feature_incompat = super->s_feature_incompat;
	out->feature_ro_compat = super->s_feature_ro_compat;
	out->state = super->s_state;
}

const char *shim_error_text(long code)
{
	return error_message(code);
}

const char *shim_library_version(void)
{
	const char *version = NULL;

	ext2fs_get_library_version(&version, NULL);
	return version;
}

enum shim_error_class shim_classify(long code)
{
	switch (code) {
	case EXT2_ET_FILE_NOT_FOUND:
		return SHIM_NOT_FOUND;
	case EXT2_ET_BLOCK_ALLOC_FAIL:
	case EXT2_ET_INODE_ALLOC_FAIL:
	case EXT2_ET_DIR_NO_SPACE:
	case EXT2_ET_EA_NO_SPACE:
	case ENOSPC:
		return SHIM_NO_SPACE;
	default:
		return SHIM_OTHER;
	}
}

/* ---- inodes ---------------------------------------------------------- */

/* Seconds beyond 32 bits live in the two low bits of the extra word. */
static void encode_time(const struct shim_time *time, uint32_t *low, uint32_t *extra)
{
	int32_t truncated = (int32_t)time->seconds;

	*low = (uint32_t)truncated;
	*extra = (time->nanoseconds << EXT4_EPOCH_BITS) |
		 (uint32_t)(((time->seconds - (int64_t)truncated) >> 32) & EXT4_EPOCH_MASK);
}

static void decode_time(uint32_t low, uint32_t extra, struct shim_time *time)
{
	time->seconds = (int64_t)(int32_t)low + ((int64_t)(extra & EXT4_EPOCH_MASK) << 32);
	time->nanoseconds = extra >> EXT4_EPOCH_BITS;
	time->pad = 0;
}

static errcode_t read_large(shim_fs *self, ext2_ino_t inode, struct ext2_inode_large *out)
{
	memset(out, 0, sizeof(*out));
	return ext2fs_read_inode_full(self->fs, inode, (struct ext2_inode *)out, sizeof(*out));
}

static errcode_t write_large(shim_fs *self, ext2_ino_t inode, struct ext2_inode_large *in)
{
	return ext2fs_write_inode_full(self->fs, inode, (struct ext2_inode *)in, sizeof(*in));
}

static void touch_ctime(shim_fs *self, struct ext2_inode_large *inode)
{
	struct shim_time now = {self->clock, 0, 0};

	encode_time(&now, &inode->i_ctime, &inode->i_ctime_extra);
}

static int is_device(uint32_t mode)
{
	return LINUX_S_ISCHR(mode) || LINUX_S_ISBLK(mode);
}

long shim_stat(shim_fs *self, uint32_t number, struct shim_inode *out)
{
	struct ext2_inode_large inode;
	errcode_t error = read_large(self, number, &inode);

	if (error)
		return error;
	memset(out, 0, sizeof(*out));
	out->size = EXT2_I_SIZE(&inode);
	decode_time(inode.i_mtime, inode.i_mtime_extra, &out->mtime);
	decode_time(inode.i_ctime, inode.i_ctime_extra, &out->ctime);
	out->mode = inode.i_mode;
	out->uid = inode_uid(inode);
	out->gid = inode_gid(inode);
	out->links = inode.i_links_count;
	out->flags = inode.i_flags;
	if (is_device(inode.i_mode)) {
		if (inode.i_block[0]) {
			out->major = (inode.i_block[0] >> 8) & 0xff;
			out->minor = inode.i_block[0] & 0xff;
		} else {
			out->major = (inode.i_block[1] & 0xfff00) >> 8;
			out->minor = (inode.i_block[1] & 0xff) | ((inode.i_block[1] >> 12) & 0xfff00);
		}
	}
	out->has_content = inode.i_blocks != 0 || EXT2_I_SIZE(&inode) != 0;
	return 0;
}

long shim_set_meta(shim_fs *self, uint32_t number, const struct shim_inode *meta)
{
	struct ext2_inode_large inode;
	errcode_t error = read_large(self, number, &inode);

	if (error)
		return error;
	inode.i_mode = (inode.i_mode & LINUX_S_IFMT) | (meta->mode & 07777);
	inode.i_uid = meta->uid & 0xffff;
	ext2fs_set_i_uid_high(inode, meta->uid >> 16);
	inode.i_gid = meta->gid & 0xffff;
	ext2fs_set_i_gid_high(inode, meta->gid >> 16);
	encode_time(&meta->mtime, &inode.i_mtime, &inode.i_mtime_extra);
	inode.i_atime = inode.i_mtime;
	inode.i_atime_extra = inode.i_mtime_extra;
	touch_ctime(self, &inode);
	return write_large(self, number, &inode);
}

long shim_set_links(shim_fs *self, uint32_t number, uint32_t links)
{
	struct ext2_inode_large inode;
	errcode_t error = read_large(self, number, &inode);

	if (error)
		return error;
	inode.i_links_count = (uint16_t)links;
	touch_ctime(self, &inode);
	return write_large(self, number, &inode);
}

long shim_set_size(shim_fs *self, uint32_t number, uint64_t size)
{
	struct ext2_inode_large inode;
	errcode_t error = read_large(self, number, &inode);

	if (error)
		return error;
	error = ext2fs_inode_size_set(self->fs, (struct ext2_inode *)&inode, size);
	if (error)
		return error;
	return write_large(self, number, &inode);
}

/* What ext2fs_write_new_inode does not set: the parts of a time beyond 32 bits. */
static errcode_t stamp_new(shim_fs *self, ext2_ino_t number)
{
	struct shim_time now = {self->clock, 0, 0};
	struct ext2_inode_large inode;
	errcode_t error = read_large(self, number, &inode);

	if (error)
		return error;
	encode_time(&now, &inode.i_crtime, &inode.i_crtime_extra);
	encode_time(&now, &inode.i_mtime, &inode.i_mtime_extra);
	inode.i_atime = inode.i_mtime;
	inode.i_atime_extra = inode.i_mtime_extra;
	touch_ctime(self, &inode);
	return write_large(self, number, &inode);
}

long shim_new_inode(shim_fs *self, uint32_t parent, uint32_t mode, uint32_t major, uint32_t minor, uint32_t *out)
{
	struct ext2_inode inode;
	ext2_extent_handle_t handle;
	ext2_ino_t number;
	errcode_t error;

	error = ext2fs_new_inode(self->fs, parent, (int)mode, NULL, &number);
	if (error)
		return error;
	memset(&inode, 0, sizeof(inode));
	inode.i_mode = (uint16_t)mode;
	inode.i_links_count = 1;
	if (LINUX_S_ISREG(mode))
		inode.i_flags |= EXT4_EXTENTS_FL;
	if (is_device(mode)) {
		if (major < 256 && minor < 256)
			inode.i_block[0] = major << 8 | minor;
		else
			inode.i_block[1] = (minor & 0xff) | (major << 8) | ((minor & ~0xffu) << 12);
	}
	ext2fs_inode_alloc_stats2(self->fs, number, +1, 0);
	error = ext2fs_write_new_inode(self->fs, number, &inode);
	if (error)
		return error;
	if (LINUX_S_ISREG(mode)) {
		/* An empty extent tree has a header; opening it writes one. */
		error = ext2fs_extent_open2(self->fs, number, &inode, &handle);
		if (error)
			return error;
		ext2fs_extent_free(handle);
		error = ext2fs_write_inode(self->fs, number, &inode);
		if (error)
			return error;
	}
	*out = number;
	return stamp_new(self, number);
}

long shim_new_directory(shim_fs *self, uint32_t parent, uint32_t *out)
{
	ext2_ino_t number;
	errcode_t error = ext2fs_new_inode(self->fs, parent, LINUX_S_IFDIR | 0755, NULL, &number);

	if (error)
		return error;
	error = ext2fs_mkdir(self->fs, parent, number, NULL);
	if (error)
		return error;
	*out = number;
	return stamp_new(self, number);
}

long shim_new_symlink(shim_fs *self, uint32_t parent, const char *target, uint32_t *out)
{
	ext2_ino_t number;
	errcode_t error = ext2fs_new_inode(self->fs, parent, LINUX_S_IFLNK | 0777, NULL, &number);

	if (error)
		return error;
	error = ext2fs_symlink(self->fs, parent, number, NULL, (char *)target);
	if (error)
		return error;
	*out = number;
	return stamp_new(self, number);
}

long shim_free_inode(shim_fs *self, uint32_t number)
{
	struct ext2_inode_large inode;
	errcode_t error = read_large(self, number, &inode);

	if (error)
		return error;
	inode.i_links_count = 0;
	inode.i_dtime = (uint32_t)self->clock;
	error = write_large(self, number, &inode);
	if (error)
		return error;
	error = ext2fs_free_ext_attr(self->fs, number, &inode);
	if (error)
		return error;
	error = read_large(self, number, &inode);
	if (error)
		return error;
	if (ext2fs_inode_has_valid_blocks2(self->fs, (struct ext2_inode *)&inode)) {
		error = ext2fs_punch(self->fs, number, (struct ext2_inode *)&inode, NULL, 0, ~0ULL);
		if (error)
			return error;
	}
	ext2fs_inode_alloc_stats2(self->fs, number, -1, LINUX_S_ISDIR(inode.i_mode));
	return 0;
}

/* ---- directories ----------------------------------------------------- */

long shim_lookup(shim_fs *self, uint32_t directory, const char *name, size_t length, uint32_t *out)
{
	ext2_ino_t inode;
	errcode_t error = ext2fs_lookup(self->fs, directory, name, (int)length, NULL, &inode);

	if (!error)
		*out = inode;
	return error;
}

struct listing {
	shim_entry_fn entry;
	void *context;
};

static int list_one(ext2_ino_t directory, int position, struct ext2_dir_entry *entry, int offset, int block_size,
		    char *buffer, void *context)
{
	struct listing *listing = context;

	if (listing->entry(listing->context, entry->name, (size_t)ext2fs_dirent_name_len(entry), entry->inode,
			   (uint32_t)ext2fs_dirent_file_type(entry)))
		return DIRENT_ABORT;
	return 0;
}

long shim_list(shim_fs *self, uint32_t directory, shim_entry_fn entry, void *context)
{
	struct listing listing = {entry, context};

	return ext2fs_dir_iterate2(self->fs, directory, 0, NULL, list_one, &listing);
}

static int file_type(uint32_t mode)
{
	switch (mode & LINUX_S_IFMT) {
	case LINUX_S_IFREG:
		return EXT2_FT_REG_FILE;
	case LINUX_S_IFDIR:
		return EXT2_FT_DIR;
	case LINUX_S_IFLNK:
		return EXT2_FT_SYMLINK;
	case LINUX_S_IFCHR:
		return EXT2_FT_CHRDEV;
	case LINUX_S_IFBLK:
		return EXT2_FT_BLKDEV;
	case LINUX_S_IFIFO:
		return EXT2_FT_FIFO;
	case LINUX_S_IFSOCK:
		return EXT2_FT_SOCK;
	default:
		return EXT2_FT_UNKNOWN;
	}
}

long shim_link(shim_fs *self, uint32_t directory, const char *name, uint32_t inode, uint32_t mode)
{
	errcode_t error = ext2fs_link(self->fs, directory, name, inode, file_type(mode));

	if (error == EXT2_ET_DIR_NO_SPACE) {
		error = ext2fs_expand_dir(self->fs, directory);
		if (!error)
			error = ext2fs_link(self->fs, directory, name, inode, file_type(mode));
	}
	return error;
}

long shim_unlink(shim_fs *self, uint32_t directory, const char *name, uint32_t inode)
{
	return ext2fs_unlink(self->fs, directory, name, inode, 0);
}

/* ---- content --------------------------------------------------------- */

static errcode_t map_block(shim_fs *self, ext2_ino_t number, struct ext2_inode *inode, uint64_t logical, blk64_t *out)
{
	int flags = 0;
	blk64_t physical = 0;
	errcode_t error = ext2fs_bmap2(self->fs, number, inode, NULL, 0, logical, &flags, &physical);

	if (error)
		return error;
	if (physical && (flags & BMAP_RET_UNINIT)) {
		/* Reserved but never written: setting the same block again marks it written. */
		error = ext2fs_bmap2(self->fs, number, inode, NULL, BMAP_SET, logical, NULL, &physical);
	} else if (!physical) {
		error = ext2fs_bmap2(self->fs, number, inode, NULL, BMAP_ALLOC, logical, NULL, &physical);
	}
	*out = physical;
	return error;
}

long shim_write_blocks(shim_fs *self, uint32_t number, uint64_t first, uint32_t count, const uint8_t *data)
{
	size_t size = self->fs->blocksize;
	uint32_t start = 0, index;
	blk64_t run = 0, physical;
	struct ext2_inode inode;
	errcode_t error = ext2fs_read_inode(self->fs, number, &inode);

	for (index = 0; !error && index < count; index++) {
		error = map_block(self, number, &inode, first + index, &physical);
		if (error)
			break;
		if (run && physical == run + (index - start))
			continue;
		if (run)
			error = io_channel_write_blk64(self->fs->io, run, (int)(index - start), data + start * size);
		run = physical;
		start = index;
	}
	if (!error && run)
		error = io_channel_write_blk64(self->fs->io, run, (int)(count - start), data + start * size);
	return error;
}

long shim_read_blocks(shim_fs *self, uint32_t number, uint64_t first, uint32_t count, uint8_t *data)
{
	size_t size = self->fs->blocksize;
	struct ext2_inode inode;
	errcode_t error = ext2fs_read_inode(self->fs, number, &inode);
	uint32_t index;

	for (index = 0; !error && index < count; index++) {
		blk64_t physical = 0;
		int flags = 0;

		error = ext2fs_bmap2(self->fs, number, &inode, NULL, 0, first + index, &flags, &physical);
		if (error)
			break;
		if (!physical || (flags & BMAP_RET_UNINIT))
			memset(data + index * size, 0, size);
		else
			error = io_channel_read_blk64(self->fs->io, physical, 1, data + index * size);
	}
	return error;
}

long shim_punch(shim_fs *self, uint32_t number, uint64_t first, uint64_t last)
{
	return ext2fs_punch(self->fs, number, NULL, NULL, first, last);
}

long shim_readlink(shim_fs *self, uint32_t number, char *buffer, size_t capacity, size_t *length)
{
	struct ext2_inode inode;
	errcode_t error = ext2fs_read_inode(self->fs, number, &inode);
	uint8_t *block;

	if (error)
		return error;
	*length = (size_t)EXT2_I_SIZE(&inode);
	if (*length > capacity || *length > self->fs->blocksize)
		return EXT2_ET_INVALID_ARGUMENT;
	if (ext2fs_is_fast_symlink(&inode)) {
		memcpy(buffer, inode.i_block, *length);
		return 0;
	}
	block = malloc(self->fs->blocksize);
	if (!block)
		return ENOMEM;
	error = shim_read_blocks(self, number, 0, 1, block);
	if (!error)
		memcpy(buffer, block, *length);
	free(block);
	return error;
}

/* ---- extended attributes --------------------------------------------- */

long shim_xattrs_open(shim_fs *self, uint32_t number, shim_xattrs **out)
{
	shim_xattrs *xattrs = calloc(1, sizeof(*xattrs));
	errcode_t error;

	if (!xattrs)
		return ENOMEM;
	error = ext2fs_xattrs_open(self->fs, number, &xattrs->handle);
	if (!error) {
		error = ext2fs_xattrs_read(xattrs->handle);
		if (error)
			ext2fs_xattrs_close(&xattrs->handle);
	}
	if (error) {
		free(xattrs);
		return error;
	}
	*out = xattrs;
	return 0;
}

struct naming {
	shim_xattr_fn name;
	void *context;
};

static int name_one(char *name, char *value, size_t length, void *context)
{
	struct naming *naming = context;

	return naming->name(naming->context, name, strlen(name)) ? XATTR_ABORT : 0;
}

long shim_xattrs_names(shim_xattrs *xattrs, shim_xattr_fn name, void *context)
{
	struct naming naming = {name, context};

	return ext2fs_xattrs_iterate(xattrs->handle, name_one, &naming);
}

long shim_xattrs_get(shim_xattrs *xattrs, const char *name, void **value, size_t *length)
{
	return ext2fs_xattr_get(xattrs->handle, name, value, length);
}

void shim_value_free(void *value)
{
	ext2fs_free_mem(&value);
}

long shim_xattrs_set(shim_xattrs *xattrs, const char *name, const void *value, size_t length)
{
	return ext2fs_xattr_set(xattrs->handle, name, value, length);
}

long shim_xattrs_remove(shim_xattrs *xattrs, const char *name)
{
	return ext2fs_xattr_remove(xattrs->handle, name);
}

long shim_xattrs_write(shim_xattrs *xattrs)
{
	return ext2fs_xattrs_write(xattrs->handle);
}

void shim_xattrs_close(shim_xattrs *xattrs)
{
	ext2fs_xattrs_close(&xattrs->handle);
	free(xattrs);
}
