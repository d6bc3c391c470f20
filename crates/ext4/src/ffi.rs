//! The only module that talks to C. It turns the shim's calls into safe methods and carries I/O
//! errors and panics of the Rust side across the C frames; it decides nothing.

#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;

use crate::device::BlockDevice;

/// Number of an inode in this file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ino(u32);

impl Ino {
    pub(crate) const ROOT: Ino = Ino(2);

    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

#[repr(C)]
struct RawFs {
    _private: [u8; 0],
}

#[repr(C)]
struct RawXattrs {
    _private: [u8; 0],
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Info {
    pub(crate) blocks: u64,
    pub(crate) free_blocks: u64,
    pub(crate) block_size: u32,
    pub(crate) inode_size: u32,
    pub(crate) feature_compat: u32,
    pub(crate) feature_incompat: u32,
    pub(crate) feature_ro_compat: u32,
    pub(crate) state: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct RawTime {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
    pad: u32,
}

impl RawTime {
    pub(crate) fn new(seconds: i64, nanoseconds: u32) -> Self {
        RawTime {
            seconds,
            nanoseconds,
            pad: 0,
        }
    }
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Inode {
    pub(crate) size: u64,
    pub(crate) mtime: RawTime,
    pub(crate) ctime: RawTime,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u32,
    pub(crate) flags: u32,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) has_content: u32,
}

type ReadFn = unsafe extern "C" fn(*mut c_void, u64, *mut c_void, usize) -> c_int;
type WriteFn = unsafe extern "C" fn(*mut c_void, u64, *const c_void, usize) -> c_int;
type EntryFn = unsafe extern "C" fn(*mut c_void, *const c_char, usize, u32, u32) -> c_int;
type NameFn = unsafe extern "C" fn(*mut c_void, *const c_char, usize) -> c_int;

unsafe extern "C" {
    fn shim_open(
        context: *mut c_void,
        read: ReadFn,
        write: WriteFn,
        writable: c_int,
        clock: i64,
        out: *mut *mut RawFs,
    ) -> c_long;
    fn shim_commit(fs: *mut RawFs) -> c_long;
    fn shim_abandon(fs: *mut RawFs);
    fn shim_info(fs: *const RawFs, out: *mut Info);
    fn shim_error_text(code: c_long) -> *const c_char;
    fn shim_library_version() -> *const c_char;
    fn shim_classify(code: c_long) -> c_int;
    fn shim_lookup(
        fs: *mut RawFs,
        directory: u32,
        name: *const c_char,
        length: usize,
        out: *mut u32,
    ) -> c_long;
    fn shim_list(fs: *mut RawFs, directory: u32, entry: EntryFn, context: *mut c_void) -> c_long;
    fn shim_stat(fs: *mut RawFs, inode: u32, out: *mut Inode) -> c_long;
    fn shim_set_meta(fs: *mut RawFs, inode: u32, meta: *const Inode) -> c_long;
    fn shim_set_links(fs: *mut RawFs, inode: u32, links: u32) -> c_long;
    fn shim_set_size(fs: *mut RawFs, inode: u32, size: u64) -> c_long;
    fn shim_new_inode(
        fs: *mut RawFs,
        parent: u32,
        mode: u32,
        major: u32,
        minor: u32,
        out: *mut u32,
    ) -> c_long;
    fn shim_new_directory(fs: *mut RawFs, parent: u32, out: *mut u32) -> c_long;
    fn shim_new_symlink(
        fs: *mut RawFs,
        parent: u32,
        target: *const c_char,
        out: *mut u32,
    ) -> c_long;
    fn shim_free_inode(fs: *mut RawFs, inode: u32) -> c_long;
    fn shim_link(
        fs: *mut RawFs,
        directory: u32,
        name: *const c_char,
        inode: u32,
        mode: u32,
    ) -> c_long;
    fn shim_unlink(fs: *mut RawFs, directory: u32, name: *const c_char, inode: u32) -> c_long;
    fn shim_write_blocks(
        fs: *mut RawFs,
        inode: u32,
        first: u64,
        count: u32,
        data: *const u8,
    ) -> c_long;
    fn shim_read_blocks(
        fs: *mut RawFs,
        inode: u32,
        first: u64,
        count: u32,
        data: *mut u8,
    ) -> c_long;
    fn shim_punch(fs: *mut RawFs, inode: u32, first: u64, last: u64) -> c_long;
    fn shim_readlink(
        fs: *mut RawFs,
        inode: u32,
        buffer: *mut c_char,
        capacity: usize,
        length: *mut usize,
    ) -> c_long;
    fn shim_xattrs_open(fs: *mut RawFs, inode: u32, out: *mut *mut RawXattrs) -> c_long;
    fn shim_xattrs_names(xattrs: *mut RawXattrs, name: NameFn, context: *mut c_void) -> c_long;
    fn shim_xattrs_get(
        xattrs: *mut RawXattrs,
        name: *const c_char,
        value: *mut *mut c_void,
        length: *mut usize,
    ) -> c_long;
    fn shim_value_free(value: *mut c_void);
    fn shim_xattrs_set(
        xattrs: *mut RawXattrs,
        name: *const c_char,
        value: *const c_void,
        length: usize,
    ) -> c_long;
    fn shim_xattrs_remove(xattrs: *mut RawXattrs, name: *const c_char) -> c_long;
    fn shim_xattrs_write(xattrs: *mut RawXattrs) -> c_long;
    fn shim_xattrs_close(xattrs: *mut RawXattrs);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    NotFound,
    NoSpace,
    Other,
}

/// A failed call: what the library says, and the device's own error if that was the cause.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) detail: String,
    pub(crate) source: Option<io::Error>,
}

/// Version of the libext2fs that is linked.
pub(crate) fn library_version() -> String {
    // SAFETY: the library returns a pointer to a constant string.
    unsafe { text(shim_library_version()) }
}

/// # Safety
/// `pointer` is null or a NUL-terminated string.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::from("unknown");
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

/// The device behind the callbacks, and what happened in them.
struct DeviceState<'a> {
    device: &'a mut dyn BlockDevice,
    error: Option<io::Error>,
    panic: Option<Box<dyn Any + Send>>,
}

impl DeviceState<'_> {
    /// A panic must not unwind through C: it is kept and resumed when the call has returned.
    fn guard(&mut self, work: impl FnOnce(&mut dyn BlockDevice) -> io::Result<()>) -> c_int {
        if self.panic.is_some() {
            return 1;
        }
        let device = &mut *self.device;
        match catch_unwind(AssertUnwindSafe(|| work(device))) {
            Ok(Ok(())) => 0,
            Ok(Err(error)) => {
                self.error.get_or_insert(error);
                1
            }
            Err(panic) => {
                self.panic = Some(panic);
                1
            }
        }
    }
}

unsafe extern "C" fn read_callback(
    context: *mut c_void,
    offset: u64,
    buffer: *mut c_void,
    length: usize,
) -> c_int {
    // SAFETY: `context` is the `DeviceState` of the `FileSystem` making the call, used by nobody
    // else meanwhile; the library gives a buffer of `length` bytes, which is only written here.
    unsafe {
        ptr::write_bytes(buffer.cast::<u8>(), 0, length);
        let bytes = std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length);
        (*context.cast::<DeviceState<'_>>()).guard(|device| device.read(offset, bytes))
    }
}

unsafe extern "C" fn write_callback(
    context: *mut c_void,
    offset: u64,
    buffer: *const c_void,
    length: usize,
) -> c_int {
    // SAFETY: as in `read_callback`; the buffer holds `length` initialised bytes.
    unsafe {
        let bytes = std::slice::from_raw_parts(buffer.cast::<u8>(), length);
        (*context.cast::<DeviceState<'_>>()).guard(|device| device.write(offset, bytes))
    }
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) name: Vec<u8>,
    pub(crate) inode: Ino,
}

unsafe extern "C" fn entry_callback(
    context: *mut c_void,
    name: *const c_char,
    length: usize,
    inode: u32,
    _type: u32,
) -> c_int {
    // SAFETY: `context` is the vector of `FileSystem::list`; the name has `length` bytes. Pushing
    // can only abort (out of memory), not unwind.
    unsafe {
        let name = std::slice::from_raw_parts(name.cast::<u8>(), length);
        if name != b"." && name != b".." {
            (*context.cast::<Vec<Name>>()).push(Name {
                name: name.to_vec(),
                inode: Ino(inode),
            });
        }
    }
    0
}

unsafe extern "C" fn name_callback(
    context: *mut c_void,
    name: *const c_char,
    length: usize,
) -> c_int {
    // SAFETY: as in `entry_callback`, for `Xattributes::names`.
    unsafe {
        let name = std::slice::from_raw_parts(name.cast::<u8>(), length);
        (*context.cast::<Vec<Vec<u8>>>()).push(name.to_vec());
    }
    0
}

/// An open file system. Dropping it without [`FileSystem::commit`] writes nothing more.
pub(crate) struct FileSystem<'a> {
    raw: *mut RawFs,
    state: *mut DeviceState<'a>,
    _device: PhantomData<&'a mut dyn BlockDevice>,
}

impl fmt::Debug for FileSystem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSystem").finish_non_exhaustive()
    }
}

/// Whether the file system may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    Write { clock: i64 },
}

impl<'a> FileSystem<'a> {
    pub(crate) fn open(device: &'a mut dyn BlockDevice, access: Access) -> Result<Self, Failure> {
        let state = Box::into_raw(Box::new(DeviceState {
            device,
            error: None,
            panic: None,
        }));
        let mut this = FileSystem {
            raw: ptr::null_mut(),
            state,
            _device: PhantomData,
        };
        let (writable, clock) = match access {
            Access::ReadOnly => (0, 1),
            Access::Write { clock } => (1, clock),
        };
        // SAFETY: the state outlives the shim's handle (both end in `drop`), and the callbacks
        // have the types the shim declares.
        let code = unsafe {
            shim_open(
                state.cast(),
                read_callback,
                write_callback,
                writable,
                clock,
                &raw mut this.raw,
            )
        };
        this.check(code)?;
        Ok(this)
    }

    /// Writes the bitmaps, group descriptors and superblock.
    pub(crate) fn commit(mut self) -> Result<(), Failure> {
        let raw = std::mem::replace(&mut self.raw, ptr::null_mut());
        // SAFETY: `raw` is the handle of `open`, given up here whatever the result.
        let code = unsafe { shim_commit(raw) };
        self.check(code)
    }

    /// Resumes a panic of the device, or makes an error of a code that is not 0.
    fn check(&self, code: c_long) -> Result<(), Failure> {
        // SAFETY: `state` is valid until `drop`, and no call into C is under way.
        let state = unsafe { &mut *self.state };
        if let Some(panic) = state.panic.take() {
            resume_unwind(panic);
        }
        if code == 0 {
            return Ok(());
        }
        // SAFETY: both take any code; the text is static or owned by the library until the next call.
        let (kind, detail) = unsafe { (shim_classify(code), text(shim_error_text(code))) };
        let kind = match kind {
            1 => FailureKind::NotFound,
            2 => FailureKind::NoSpace,
            _ => FailureKind::Other,
        };
        Err(Failure {
            kind,
            detail,
            source: state.error.take(),
        })
    }

    pub(crate) fn info(&self) -> Info {
        let mut info = Info::default();
        // SAFETY: an open handle and a struct of the shim's layout.
        unsafe { shim_info(self.raw, &raw mut info) };
        info
    }

    pub(crate) fn lookup(&mut self, directory: Ino, name: &[u8]) -> Result<Option<Ino>, Failure> {
        let mut inode = 0;
        // SAFETY: the name is passed with its length; the result goes to a local.
        let code = unsafe {
            shim_lookup(
                self.raw,
                directory.0,
                name.as_ptr().cast(),
                name.len(),
                &raw mut inode,
            )
        };
        match self.check(code) {
            Ok(()) => Ok(Some(Ino(inode))),
            Err(Failure {
                kind: FailureKind::NotFound,
                source: None,
                ..
            }) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The names in a directory without `.` and `..`, in the order they are stored.
    pub(crate) fn list(&mut self, directory: Ino) -> Result<Vec<Name>, Failure> {
        let mut names: Vec<Name> = Vec::new();
        // SAFETY: the callback casts the context back to this vector, which lives through the call.
        let code = unsafe {
            shim_list(
                self.raw,
                directory.0,
                entry_callback,
                (&raw mut names).cast(),
            )
        };
        self.check(code)?;
        Ok(names)
    }

    pub(crate) fn stat(&mut self, inode: Ino) -> Result<Inode, Failure> {
        let mut out = Inode::default();
        // SAFETY: a struct of the shim's layout.
        let code = unsafe { shim_stat(self.raw, inode.0, &raw mut out) };
        self.check(code)?;
        Ok(out)
    }

    pub(crate) fn set_meta(&mut self, inode: Ino, meta: &Inode) -> Result<(), Failure> {
        // SAFETY: a struct of the shim's layout, read only.
        let code = unsafe { shim_set_meta(self.raw, inode.0, meta) };
        self.check(code)
    }

    pub(crate) fn set_links(&mut self, inode: Ino, links: u32) -> Result<(), Failure> {
        // SAFETY: plain values.
        let code = unsafe { shim_set_links(self.raw, inode.0, links) };
        self.check(code)
    }

    pub(crate) fn set_size(&mut self, inode: Ino, size: u64) -> Result<(), Failure> {
        // SAFETY: plain values.
        let code = unsafe { shim_set_size(self.raw, inode.0, size) };
        self.check(code)
    }

    pub(crate) fn new_inode(
        &mut self,
        parent: Ino,
        mode: u32,
        major: u32,
        minor: u32,
    ) -> Result<Ino, Failure> {
        let mut inode = 0;
        // SAFETY: plain values; the result goes to a local.
        let code =
            unsafe { shim_new_inode(self.raw, parent.0, mode, major, minor, &raw mut inode) };
        self.check(code)?;
        Ok(Ino(inode))
    }

    pub(crate) fn new_directory(&mut self, parent: Ino) -> Result<Ino, Failure> {
        let mut inode = 0;
        // SAFETY: plain values; the result goes to a local.
        let code = unsafe { shim_new_directory(self.raw, parent.0, &raw mut inode) };
        self.check(code)?;
        Ok(Ino(inode))
    }

    pub(crate) fn new_symlink(&mut self, parent: Ino, target: &CStr) -> Result<Ino, Failure> {
        let mut inode = 0;
        // SAFETY: a NUL-terminated string that the library only reads.
        let code = unsafe { shim_new_symlink(self.raw, parent.0, target.as_ptr(), &raw mut inode) };
        self.check(code)?;
        Ok(Ino(inode))
    }

    pub(crate) fn free_inode(&mut self, inode: Ino) -> Result<(), Failure> {
        // SAFETY: plain values.
        let code = unsafe { shim_free_inode(self.raw, inode.0) };
        self.check(code)
    }

    pub(crate) fn link(
        &mut self,
        directory: Ino,
        name: &CStr,
        inode: Ino,
        mode: u32,
    ) -> Result<(), Failure> {
        // SAFETY: a NUL-terminated string that the library only reads.
        let code = unsafe { shim_link(self.raw, directory.0, name.as_ptr(), inode.0, mode) };
        self.check(code)
    }

    pub(crate) fn unlink(
        &mut self,
        directory: Ino,
        name: &CStr,
        inode: Ino,
    ) -> Result<(), Failure> {
        // SAFETY: a NUL-terminated string that the library only reads.
        let code = unsafe { shim_unlink(self.raw, directory.0, name.as_ptr(), inode.0) };
        self.check(code)
    }

    fn blocks_in(&self, bytes: usize) -> u32 {
        let block_size = self.info().block_size as usize;
        assert!(
            bytes.is_multiple_of(block_size),
            "content comes in whole blocks"
        );
        u32::try_from(bytes / block_size).expect("a transfer is far below 2^32 blocks")
    }

    /// Writes whole blocks from block `first` of the file on.
    pub(crate) fn write_blocks(
        &mut self,
        inode: Ino,
        first: u64,
        data: &[u8],
    ) -> Result<(), Failure> {
        let count = self.blocks_in(data.len());
        // SAFETY: `data` holds `count` whole blocks.
        let code = unsafe { shim_write_blocks(self.raw, inode.0, first, count, data.as_ptr()) };
        self.check(code)
    }

    pub(crate) fn read_blocks(
        &mut self,
        inode: Ino,
        first: u64,
        data: &mut [u8],
    ) -> Result<(), Failure> {
        let count = self.blocks_in(data.len());
        // SAFETY: `data` has room for `count` whole blocks.
        let code = unsafe { shim_read_blocks(self.raw, inode.0, first, count, data.as_mut_ptr()) };
        self.check(code)
    }

    /// Unmaps the blocks from `first` to `last`, both included.
    pub(crate) fn punch(&mut self, inode: Ino, first: u64, last: u64) -> Result<(), Failure> {
        // SAFETY: plain values.
        let code = unsafe { shim_punch(self.raw, inode.0, first, last) };
        self.check(code)
    }

    pub(crate) fn readlink(&mut self, inode: Ino) -> Result<Vec<u8>, Failure> {
        let mut buffer = vec![0_u8; crate::BLOCK_SIZE];
        let mut length = 0;
        // SAFETY: the shim writes at most the capacity it is given.
        let code = unsafe {
            shim_readlink(
                self.raw,
                inode.0,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &raw mut length,
            )
        };
        self.check(code)?;
        buffer.truncate(length);
        Ok(buffer)
    }

    pub(crate) fn xattrs(&mut self, inode: Ino) -> Result<Xattributes<'_, 'a>, Failure> {
        let mut raw = ptr::null_mut();
        // SAFETY: the handle goes to a local and is closed by `Xattributes`.
        let code = unsafe { shim_xattrs_open(self.raw, inode.0, &raw mut raw) };
        self.check(code)?;
        Ok(Xattributes { fs: self, raw })
    }
}

impl Drop for FileSystem<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is either null (never opened, or given to commit) or ours; after it
        // is gone nobody refers to the state.
        unsafe {
            if !self.raw.is_null() {
                shim_abandon(self.raw);
            }
            drop(Box::from_raw(self.state));
        }
    }
}

/// The extended attributes of one inode, read into memory until [`Xattributes::write`].
pub(crate) struct Xattributes<'f, 'a> {
    fs: &'f mut FileSystem<'a>,
    raw: *mut RawXattrs,
}

impl Xattributes<'_, '_> {
    pub(crate) fn names(&mut self) -> Result<Vec<Vec<u8>>, Failure> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        // SAFETY: the callback casts the context back to this vector, which lives through the call.
        let code = unsafe { shim_xattrs_names(self.raw, name_callback, (&raw mut names).cast()) };
        self.fs.check(code)?;
        names.sort();
        Ok(names)
    }

    pub(crate) fn get(&mut self, name: &CStr) -> Result<Vec<u8>, Failure> {
        let mut value = ptr::null_mut();
        let mut length = 0;
        // SAFETY: on success the library gives a buffer of `length` bytes that is ours to free.
        unsafe {
            let code = shim_xattrs_get(self.raw, name.as_ptr(), &raw mut value, &raw mut length);
            self.fs.check(code)?;
            let bytes = if value.is_null() || length == 0 {
                Vec::new()
            } else {
                std::slice::from_raw_parts(value.cast::<u8>(), length).to_vec()
            };
            if !value.is_null() {
                shim_value_free(value);
            }
            Ok(as_the_kernel_gives(name.to_bytes(), bytes))
        }
    }

    pub(crate) fn set(&mut self, name: &CStr, value: &[u8]) -> Result<(), Failure> {
        // SAFETY: name and value are only read, the value with its length.
        let code =
            unsafe { shim_xattrs_set(self.raw, name.as_ptr(), value.as_ptr().cast(), value.len()) };
        self.fs.check(code)
    }

    pub(crate) fn remove(&mut self, name: &CStr) -> Result<(), Failure> {
        // SAFETY: the name is only read.
        let code = unsafe { shim_xattrs_remove(self.raw, name.as_ptr()) };
        self.fs.check(code)
    }

    pub(crate) fn write(self) -> Result<(), Failure> {
        // SAFETY: the handle is open until `drop`.
        let code = unsafe { shim_xattrs_write(self.raw) };
        self.fs.check(code)
    }
}

impl Drop for Xattributes<'_, '_> {
    fn drop(&mut self) {
        // SAFETY: opened by `FileSystem::xattrs`, closed once.
        unsafe { shim_xattrs_close(self.raw) };
    }
}

/// libext2fs gives an access control list with id 0 where an entry has none; the kernel gives -1.
fn as_the_kernel_gives(name: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    const HEADER_BYTES: usize = 4;
    const ENTRY_BYTES: usize = 8;
    const NAMED_USER: u8 = 0x02;
    const NAMED_GROUP: u8 = 0x08;
    if name.starts_with(b"system.posix_acl_") && value.len() >= HEADER_BYTES {
        for entry in value[HEADER_BYTES..].chunks_exact_mut(ENTRY_BYTES) {
            if !matches!(entry[..2], [NAMED_USER | NAMED_GROUP, 0]) {
                entry[4..].fill(0xff);
            }
        }
    }
    value
}

/// A C string of a name that holds no NUL.
pub(crate) fn c_string(bytes: &[u8]) -> Option<CString> {
    CString::new(bytes).ok()
}
