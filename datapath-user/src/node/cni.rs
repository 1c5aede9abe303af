//! The file by which the container runtime learns how to connect pods.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

/// Our network configuration list in the runtime's folder.
#[derive(Clone, Debug)]
pub struct Conflist {
    folder: PathBuf,
}

/// What could not be done with a file.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {source}", path.display())]
pub struct CniError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Conflist {
    /// In this folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// Makes `text` what the file says; whether it was something else. A reader sees the old file or the
    /// new one, also after a power cut.
    pub fn write(&self, text: &str) -> Result<bool, CniError> {
        let path = self.path();
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(false);
        }
        // Runtimes take no file whose name does not end in `.conf`, `.conflist` or `.json`.
        let new = self.folder.join(format!(".{NAME}.new"));
        let mut file = File::create(&new).map_err(error("creating", &new))?;
        file.write_all(text.as_bytes()).map_err(error("writing", &new))?;
        file.sync_all().map_err(error("writing", &new))?;
        fs::rename(&new, &path).map_err(error("replacing", &path))?;
        Ok(true)
    }

    /// Removes the file; whether there was one.
    pub fn remove(&self) -> Result<bool, CniError> {
        let path = self.path();
        // Asked first: on a read-only file system nothing can be removed, not even what is not there.
        if !path.exists() {
            return Ok(false);
        }
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(source) => Err(error("removing", &path)(source)),
        }
    }

    /// Somebody else's file that the runtime would take in place of ours: it takes the first by name.
    pub fn rival(&self) -> Option<PathBuf> {
        let names = fs::read_dir(&self.folder).ok()?.flatten().map(|entry| entry.file_name());
        let names = names.filter_map(|name| name.into_string().ok());
        let is_list = |name: &String| ENDINGS.iter().any(|ending| name.ends_with(ending));
        let first = names.filter(is_list).min()?;
        (first.as_str() < NAME).then(|| self.folder.join(first))
    }
}

fn error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CniError {
    let path = path.to_owned();
    move |source| CniError { what, path, source }
}

const NAME: &str = "10-datapath.conflist";

/// Of the files that runtimes read.
const ENDINGS: [&str; 3] = [".conf", ".conflist", ".json"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_as_a_whole_and_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let conflist = Conflist::new(folder.path());
        assert!(!conflist.remove().expect("nothing to remove"));
        assert!(conflist.write("one").expect("written"));
        assert!(!conflist.write("one").expect("the same"));
        assert!(conflist.write("two").expect("written"));
        assert_eq!(fs::read_to_string(conflist.path()).expect("a file"), "two");
        let files = fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(files, 1, "nothing unfinished stays");
        assert!(conflist.remove().expect("removed"));
        assert!(!conflist.path().exists());
    }

    #[test]
    fn errors_name_the_file() {
        let error = Conflist::new(Path::new("/nowhere/net.d")).write("").expect_err("no folder");
        assert!(error.to_string().contains("/nowhere/net.d/.10-datapath.conflist"), "{error}");
    }

    #[test]
    fn a_file_that_comes_first_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let conflist = Conflist::new(folder.path());
        conflist.write("ours").expect("written");
        for (name, rival) in
            [("20-other.conflist", false), ("05-notes.txt", false), ("10-calico.conflist", true)]
        {
            fs::write(folder.path().join(name), "").expect("a file");
            assert_eq!(conflist.rival().is_some(), rival, "{name}");
        }
    }
}
