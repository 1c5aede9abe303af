//! A folder of Kubernetes YAML and JSON files in place of an API server.

use super::{
    convert::{self, Names},
    watch::News,
};
use crate::model::{Event, Kind, ObjectName};
use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

/// Why a folder cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder cannot be read.
    #[error("reading the folder {path}: {error}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Reports the objects in the folder's `.yaml`, `.yml` and `.json` files, and every change of them.
/// Runs until nobody listens.
///
/// A file that does not parse keeps what it last held. Files that the system does not report are
/// noticed within some seconds.
pub async fn watch_folder(path: PathBuf, news: mpsc::Sender<News>) -> Result<(), SourceError> {
    let (wake, mut woken) = mpsc::channel(1);
    let _watcher = subscribe(&path, wake);
    let mut folder = Folder::new(path);
    loop {
        let first = folder.first;
        let events = match folder.scan() {
            Err(error) if !first => {
                warn!(%error, "what is known stays in force");
                Vec::new()
            }
            events => events?,
        };
        for event in events {
            if news.send(News::Event(event)).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            // Editors and `cp` write in several steps.
            _ = woken.recv() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(RESCAN) => {}
            () = news.closed() => return Ok(()),
        }
    }
}

/// The objects in a JSON text, as a file with it would hold them.
pub fn parse_json(text: &str) -> Result<Vec<Event>, String> {
    let mut events = Vec::new();
    let document = Document { text, line: 0, json: true };
    match document.objects(&mut Names::default(), &mut events) {
        Ok(()) => Ok(events),
        Err(Unreadable { line, reason }) => Err(format!("line {line}: {reason}")),
    }
}

/// Has the kernel report changes; without it, the regular scan has to do.
fn subscribe(path: &Path, wake: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |_| {
        // A full channel means that the scan is about to run anyway.
        let _ = wake.try_send(());
    });
    let subscribed = watcher.and_then(|mut watcher| {
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match subscribed {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!(path = %path.display(), %error, "changes are seen by regular scans only");
            None
        }
    }
}

/// What tells whether a file has changed.
type Stamp = (Option<SystemTime>, u64);

/// The folder as last seen.
struct Folder {
    path: PathBuf,
    /// Objects of each file that ever parsed.
    files: BTreeMap<PathBuf, (Stamp, Vec<Arc<Event>>)>,
    /// What has been reported.
    reported: HashMap<(Kind, ObjectName), Arc<Event>>,
    names: Names,
    first: bool,
}

impl Folder {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            files: BTreeMap::new(),
            reported: HashMap::new(),
            names: Names::default(),
            first: true,
        }
    }

    /// What has changed since the last scan. Of an object in two files, the later file's counts.
    fn scan(&mut self) -> Result<Vec<Event>, SourceError> {
        if !self.read_files()? && !self.first {
            return Ok(Vec::new());
        }
        let now: HashMap<(Kind, ObjectName), Arc<Event>> = self
            .files
            .values()
            .flat_map(|(_, objects)| objects)
            .filter_map(|event| Some((key(event)?, event.clone())))
            .collect();
        let gone = self.reported.keys().filter(|key| !now.contains_key(*key));
        let mut events: Vec<Event> =
            gone.map(|(kind, name)| Event::Deleted(*kind, name.clone())).collect();
        let changed = now.iter().filter(|(key, event)| self.reported.get(*key) != Some(*event));
        events.extend(changed.map(|(_, event)| Event::clone(event)));
        self.reported = now;
        if std::mem::take(&mut self.first) {
            let listed = |kind| self.reported.keys().filter(move |key| key.0 == kind);
            let names = |kind| listed(kind).map(|(_, name)| name.clone()).collect();
            events.extend(Kind::ALL.map(|kind| Event::Listed(kind, names(kind))));
        }
        Ok(events)
    }

    /// Reads files that have changed; whether there were any.
    fn read_files(&mut self) -> Result<bool, SourceError> {
        let mut changed = false;
        let mut present = HashSet::new();
        for path in files(&self.path)? {
            present.insert(path.clone());
            let stamp = fs::metadata(&path).map_or((None, 0), |m| (m.modified().ok(), m.len()));
            if self.files.get(&path).is_some_and(|(known, _)| *known == stamp) {
                continue;
            }
            changed = true;
            match read(&path, &mut self.names) {
                Ok(objects) => {
                    info!(file = %path.display(), objects = objects.len(), "read");
                    let objects = objects.into_iter().map(Arc::new).collect();
                    self.files.insert(path, (stamp, objects));
                }
                Err(Unreadable { line, reason }) => {
                    error!(file = %path.display(), line, %reason,
                        "the file does not parse; its last good state stays");
                    self.files.entry(path).or_default().0 = stamp;
                }
            }
        }
        let before = self.files.len();
        self.files.retain(|path, _| present.contains(path));
        Ok(changed || self.files.len() != before)
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let failed = |error| SourceError::Folder { path: folder.to_owned(), error };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

fn key(event: &Event) -> Option<(Kind, ObjectName)> {
    match event {
        Event::Service(service) => Some((Kind::Service, service.name.clone())),
        Event::Slice(slice) => Some((Kind::Slice, slice.name.clone())),
        Event::Node(node) => Some((Kind::Node, node.name.clone())),
        Event::ServiceCidr(cidr) => Some((Kind::ServiceCidr, cidr.name.clone())),
        Event::Pod(pod) => Some((Kind::Pod, pod.name.clone())),
        Event::Deleted(..) | Event::Listed(..) => None,
    }
}

/// Why a file could not be read.
#[derive(Debug, PartialEq)]
struct Unreadable {
    line: u64,
    reason: String,
}

fn read(path: &Path, names: &mut Names) -> Result<Vec<Event>, Unreadable> {
    let text = fs::read_to_string(path)
        .map_err(|error| Unreadable { line: 0, reason: error.to_string() })?;
    let json = path.extension().is_some_and(|extension| extension == "json");
    let mut objects = Vec::new();
    for (line, document) in documents(&text, json) {
        let document = Document { text: document, line, json };
        document.objects(names, &mut objects)?;
    }
    Ok(objects)
}

/// The documents of a file, each with the number of lines before it.
fn documents(text: &str, json: bool) -> Vec<(u64, &str)> {
    if json {
        return vec![(0, text)];
    }
    let mut documents = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let mut offset = 0;
    for (line, content) in (0..).zip(text.split_inclusive('\n')) {
        // Three dashes at the start of a line separate documents, in whatever they stand.
        let marker = content.trim_end();
        if marker == "---" || marker.starts_with("--- ") {
            documents.push((start_line, &text[start..offset]));
            (start, start_line) = (offset + content.len(), line + 1);
        }
        offset += content.len();
    }
    documents.push((start_line, &text[start..]));
    documents.retain(|(_, document)| {
        let mut lines = document.lines().map(str::trim);
        lines.any(|line| !line.is_empty() && !line.starts_with('#'))
    });
    documents
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct Items<T> {
    items: Vec<T>,
}

struct Document<'a> {
    text: &'a str,
    /// Lines of the file before it.
    line: u64,
    json: bool,
}

impl Document<'_> {
    fn objects(&self, names: &mut Names, events: &mut Vec<Event>) -> Result<(), Unreadable> {
        let Header { kind } = self.parse()?;
        match kind.strip_suffix("List") {
            Some("") => {
                for item in self.parse::<Items<serde_json::Value>>()?.items {
                    self.item(&item, names, events)?;
                }
            }
            Some(kind) => {
                for item in self.parse::<Items<serde_json::Value>>()?.items {
                    self.typed_item(kind, &item, names, events)?;
                }
            }
            None => match kind.as_str() {
                "Service" => events.push(Event::Service(convert::service(&self.parse()?))),
                "EndpointSlice" => {
                    events.extend(convert::slice(&self.parse()?, names).map(Event::Slice));
                }
                "Node" => events.push(Event::Node(convert::node(&self.parse()?, names))),
                "ServiceCIDR" => {
                    events.push(Event::ServiceCidr(convert::service_cidr(&self.parse()?)));
                }
                "Pod" => events.push(Event::Pod(convert::pod(&self.parse()?, names))),
                "" => return Err(self.wrong("an object without a kind")),
                _ => {}
            },
        }
        Ok(())
    }

    fn item(
        &self,
        item: &serde_json::Value,
        names: &mut Names,
        events: &mut Vec<Event>,
    ) -> Result<(), Unreadable> {
        let kind = item["kind"].as_str().unwrap_or_default();
        self.typed_item(kind, item, names, events)
    }

    fn typed_item(
        &self,
        kind: &str,
        item: &serde_json::Value,
        names: &mut Names,
        events: &mut Vec<Event>,
    ) -> Result<(), Unreadable> {
        let wrong = |error: serde_json::Error| {
            let name = item["metadata"]["name"].as_str().unwrap_or_default();
            self.wrong(&format!("{kind} {name}: {error}"))
        };
        match kind {
            "Service" => {
                let object = core::Service::deserialize(item).map_err(wrong)?;
                events.push(Event::Service(convert::service(&object)));
            }
            "EndpointSlice" => {
                let object = discovery::EndpointSlice::deserialize(item).map_err(wrong)?;
                events.extend(convert::slice(&object, names).map(Event::Slice));
            }
            "Node" => {
                let object = core::Node::deserialize(item).map_err(wrong)?;
                events.push(Event::Node(convert::node(&object, names)));
            }
            "ServiceCIDR" => {
                let object = networking::ServiceCIDR::deserialize(item).map_err(wrong)?;
                events.push(Event::ServiceCidr(convert::service_cidr(&object)));
            }
            "Pod" => {
                let object = core::Pod::deserialize(item).map_err(wrong)?;
                events.push(Event::Pod(convert::pod(&object, names)));
            }
            _ => {}
        }
        Ok(())
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, Unreadable> {
        if self.json {
            return serde_json::from_str(self.text).map_err(|error| Unreadable {
                line: self.line + error.line() as u64,
                reason: error.to_string(),
            });
        }
        serde_saphyr::from_str(self.text).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line());
            // The rest of the message is a picture of the file.
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            Unreadable { line: self.line + line, reason }
        })
    }

    fn wrong(&self, reason: &str) -> Unreadable {
        Unreadable { line: self.line + 1, reason: reason.to_owned() }
    }
}

/// How long writers get to finish.
const SETTLE: Duration = Duration::from_millis(20);

/// How often the folder is read whether or not the kernel reported anything.
const RESCAN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
