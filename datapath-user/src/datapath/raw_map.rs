//! An open map of any type, read and written as bytes, in batches where the kernel can.

use super::sys::{self, Command, MapInfo, bpf, number};
use bytemuck::{Pod, Zeroable};
use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
    thread,
    time::Duration,
};

/// The kernel's own "operation not supported", which the C library does not know.
const ENOTSUPP: i32 = 524;
/// Entries asked for in one lookup, as long as they fit these bytes; hash buckets that do not fit make
/// it grow.
const BATCH: usize = 4096;
const BATCH_BYTES: usize = 1 << 20;
/// Flag of an update that must create the entry.
const NOEXIST: u64 = 1;

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_HASH: u32 = 5;
const PERCPU_ARRAY: u32 = 6;
const LRU_HASH: u32 = 9;
const LPM_TRIE: u32 = 11;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable, Default)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable, Default)]
struct Batch {
    position: u64,
    next_position: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// An open map.
#[derive(Debug)]
pub(super) struct RawMap {
    fd: OwnedFd,
    info: MapInfo,
    /// Bytes of a value as bpf(2) hands it over: all CPUs' values for per-CPU maps.
    value_size: usize,
}

impl RawMap {
    /// Opens the map pinned at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let fd = sys::open_pin(path)?;
        let info: MapInfo = sys::info(fd.as_fd())?;
        let value_size = match info.kind {
            PERCPU_HASH | PERCPU_ARRAY => {
                let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
                sys::per_cpu_stride(info.value_size as usize) * cpus
            }
            _ => info.value_size as usize,
        };
        Ok(Self { fd, info, value_size })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn info(&self) -> &MapInfo {
        &self.info
    }

    /// The map's type as bpftool names it.
    pub(super) fn kind(&self) -> &'static str {
        kind_name(self.info.kind)
    }

    /// Bytes of kernel memory that the map takes now; the kernel reckons them from Linux 6.4 on.
    pub(super) fn memory(&self) -> Option<u64> {
        let path = format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd());
        let text = fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
    }

    /// Whether entries come and go; an array always has all of its entries.
    pub(super) fn is_array(&self) -> bool {
        matches!(self.info.kind, ARRAY | PERCPU_ARRAY)
    }

    /// The value of `key`.
    pub(super) fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value_size];
        let mut attr = self.element(key, value.as_mut_ptr() as u64, 0);
        // SAFETY: key and value are valid for the map's sizes.
        match unsafe { bpf(Command::MapLookup, &mut attr) } {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one entry.
    pub(super) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.update_one(key, value, 0)
    }

    /// Writes one entry if there is none with this key; returns whether it did.
    pub(super) fn insert(&self, key: &[u8], value: &[u8]) -> io::Result<bool> {
        match self.update_one(key, value, NOEXIST) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes entries: `keys` and `values` are concatenated. Not atomic as a whole.
    pub(super) fn update_many(&self, mut keys: &[u8], mut values: &[u8]) -> io::Result<()> {
        let mut patience = Patience::default();
        while !keys.is_empty() {
            let count = keys.len() / self.key_size();
            assert_eq!(values.len(), count * self.value_size, "as many values as keys");
            let mut attr = self.batch(keys, count);
            attr.values = values.as_ptr() as u64;
            // SAFETY: keys and values are valid for count elements of the map's sizes.
            let Err(error) = (unsafe { bpf(Command::MapUpdateBatch, &mut attr) }) else {
                return Ok(());
            };
            if lacks_batches(&error) {
                return keys
                    .chunks_exact(self.key_size())
                    .zip(values.chunks_exact(self.value_size))
                    .try_for_each(|(key, value)| self.update(key, value));
            }
            patience.try_again_after(error)?;
            // Where it failed before the first, the kernel leaves the count as it was.
            let done = if attr.count as usize == count { 0 } else { attr.count as usize };
            keys = &keys[done * self.key_size()..];
            values = &values[done * self.value_size..];
        }
        Ok(())
    }

    /// Removes entries; those that are not there are passed over. Returns how many there were.
    pub(super) fn remove_many(&self, mut keys: &[u8]) -> io::Result<usize> {
        let mut removed = 0;
        while !keys.is_empty() {
            let count = keys.len() / self.key_size();
            let mut attr = self.batch(keys, count);
            // SAFETY: keys is valid for count elements of the map's key size.
            match unsafe { bpf(Command::MapDeleteBatch, &mut attr) } {
                Ok(_) => return Ok(removed + count),
                Err(error) if lacks_batches(&error) => return Ok(removed + self.remove_each(keys)?),
                // The batch stops at a key that is not there: go on after it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let done = attr.count as usize;
                    removed += done;
                    keys = keys.get((done + 1) * self.key_size()..).unwrap_or_default();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// Calls `visit` with the key and value of each entry. Entries that come or go meanwhile may be
    /// missed or met twice.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        // The position is the map's own business: a bucket number or a key.
        let mut position = vec![0_u8; self.key_size().max(size_of::<u64>())];
        let fitting = BATCH_BYTES / (self.key_size() + self.value_size);
        let size = BATCH.min(fitting).min(self.info.max_entries as usize).max(1);
        let (mut started, mut size) = (false, size);
        loop {
            let mut keys = vec![0; size * self.key_size()];
            let mut values = vec![0; size * self.value_size];
            let mut attr = self.batch(&keys, size);
            attr.keys = keys.as_mut_ptr() as u64;
            attr.values = values.as_mut_ptr() as u64;
            attr.position = if started { position.as_ptr() as u64 } else { 0 };
            attr.next_position = position.as_mut_ptr() as u64;
            // SAFETY: keys and values are valid for size elements, position for any map's position.
            let result = unsafe { bpf(Command::MapLookupBatch, &mut attr) };
            match &result {
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    size *= 2;
                    continue;
                }
                Err(error) if !started && lacks_batches(error) => return self.walk(visit),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return result.map(drop),
                _ => {}
            }
            let count = attr.count as usize;
            let values = values.chunks_exact(self.value_size);
            keys.chunks_exact(self.key_size())
                .zip(values)
                .take(count)
                .for_each(|(k, v)| visit(k, v));
            // "Not found" is the end of the map.
            if result.is_err() {
                return Ok(());
            }
            started = true;
        }
    }

    /// [`Self::for_each`] for maps without batches.
    fn walk(&self, mut visit: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut key: Option<Vec<u8>> = None;
        // A key that is removed while we stand on it starts the walk again, so it must be bounded.
        for _ in 0..u64::from(self.info.max_entries) * 2 {
            let mut next = vec![0; self.key_size()];
            let mut attr = Element {
                map: number(self.fd()),
                key: key.as_ref().map_or(0, |key| key.as_ptr() as u64),
                value: next.as_mut_ptr() as u64,
                ..Element::default()
            };
            // SAFETY: both keys are valid for the map's key size, or the first is null.
            match unsafe { bpf(Command::MapNextKey, &mut attr) } {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                result => result?,
            };
            if let Some(value) = self.lookup(&next)? {
                visit(&next, &value);
            }
            key = Some(next);
        }
        Ok(())
    }

    fn remove_each(&self, keys: &[u8]) -> io::Result<usize> {
        let mut removed = 0;
        for key in keys.chunks_exact(self.key_size()) {
            let mut attr = self.element(key, 0, 0);
            // SAFETY: key is valid for the map's key size.
            match unsafe { bpf(Command::MapDelete, &mut attr) } {
                Ok(_) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    fn update_one(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
        assert_eq!(value.len(), self.value_size, "a value of the map's size");
        let mut attr = self.element(key, value.as_ptr() as u64, flags);
        let mut patience = Patience::default();
        loop {
            // SAFETY: key and value are valid for the map's sizes.
            match unsafe { bpf(Command::MapUpdate, &mut attr) } {
                Ok(_) => return Ok(()),
                Err(error) => patience.try_again_after(error)?,
            }
        }
    }

    fn element(&self, key: &[u8], value: u64, flags: u64) -> Element {
        assert_eq!(key.len(), self.key_size(), "a key of the map's size");
        let map = number(self.fd());
        Element { map, pad: 0, key: key.as_ptr() as u64, value, flags }
    }

    fn batch(&self, keys: &[u8], count: usize) -> Batch {
        assert_eq!(keys.len(), count * self.key_size(), "whole keys");
        Batch {
            keys: keys.as_ptr() as u64,
            count: count as u32,
            map: number(self.fd()),
            ..Batch::default()
        }
    }

    fn key_size(&self) -> usize {
        self.info.key_size as usize
    }
}

/// How long an update is tried that finds no memory. Maps that are not allocated in advance take it
/// from a small reserve that the kernel fills in the background: many updates in a row empty it.
#[derive(Default)]
struct Patience(u32);

impl Patience {
    const TRIES: u32 = 200;
    const PAUSE: Duration = Duration::from_millis(5);

    /// Waits a moment, or gives the error back: another one, or patience is at an end.
    fn try_again_after(&mut self, error: io::Error) -> io::Result<()> {
        if error.raw_os_error() != Some(libc::ENOMEM) || self.0 == Self::TRIES {
            return Err(error);
        }
        self.0 += 1;
        thread::sleep(Self::PAUSE);
        Ok(())
    }
}

/// A map type as bpftool names it.
pub(super) fn kind_name(kind: u32) -> &'static str {
    match kind {
        HASH => "hash",
        ARRAY => "array",
        PERCPU_HASH => "percpu_hash",
        PERCPU_ARRAY => "percpu_array",
        LRU_HASH => "lru_hash",
        LPM_TRIE => "lpm_trie",
        _ => "other",
    }
}

/// Whether the map's type, or the kernel, has no batches.
fn lacks_batches(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | ENOTSUPP | libc::EOPNOTSUPP))
}
