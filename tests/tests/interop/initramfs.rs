//! An initial RAM disk in the format `newc` of cpio, as the kernel unpacks it
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// Types and permissions of what is in it (`S_IFDIR`, `S_IFREG` and the usual bits).
const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

/// The archive under construction.
#[derive(Default)]
pub(crate) struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
}

impl Initramfs {
    /// Adds a folder; those above it must have been added before.
    pub(crate) fn folder(mut self, path: &str) -> Self {
        self.entry(path, FOLDER, &[]);
        self
    }

    /// Adds an executable file.
    pub(crate) fn file(mut self, path: &str, content: &[u8]) -> Self {
        self.entry(path, FILE, content);
        self
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (links, length) = (if mode == FOLDER { 2 } else { 1 }, content.len() as u32);
        // Inode, mode, user, group, links, time, length, two pairs of device numbers, length of the
        // name with its final zero, and a checksum that this format does not use.
        let name_length = path.len() as u32 + 1;
        let fields = [self.entries, mode, 0, 0, links, 0, length, 0, 0, 0, 0, name_length, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    /// Headers and contents begin at multiples of four bytes.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
