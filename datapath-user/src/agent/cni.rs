//! Keeps what the container runtime is told in step with what is planned.

use crate::{node::Conflist, plan::PodNetwork};
use std::path::PathBuf;
use tracing::{error, info, warn};

/// What the operator decides about our part in connecting pods.
#[derive(Clone, Debug)]
pub struct CniOptions {
    /// Whether the node's pod network is ours.
    pub enabled: bool,
    /// The runtime's folder of network configurations.
    pub conf_dir: PathBuf,
    /// Where the plugin host-local keeps the addresses that it has given out.
    pub data_dir: PathBuf,
}

/// The part of a CNI: the runtime connects pods as we say, from when Services work.
pub(super) struct CniRole {
    conflist: Conflist,
    data_dir: PathBuf,
    written: Option<PodNetwork>,
    /// The lack of podCIDRs has been told.
    waiting: bool,
}

impl CniRole {
    /// None where pods are another CNI's. A file of a run before goes, unless the node `works`: it may be
    /// from before a restart of the machine.
    pub(super) fn new(options: &CniOptions, works: bool) -> Option<Self> {
        let CniOptions { enabled, conf_dir, data_dir } = options;
        let conflist = Conflist::new(conf_dir);
        if !(*enabled && works) {
            match conflist.remove() {
                Ok(true) => {
                    info!(file = %conflist.path().display(), "removed what a run before left");
                }
                Ok(false) => {}
                Err(error) => warn!("what a run before left stays: {error}"),
            }
        }
        let data_dir = data_dir.clone();
        enabled.then_some(Self { conflist, data_dir, written: None, waiting: false })
    }

    /// Tells the runtime what is planned, if that is not what it was told last. What fails is tried
    /// again after the next [`Self::recheck`].
    pub(super) fn follow(&mut self, planned: Option<&PodNetwork>) {
        let Some(planned) = planned else {
            if !std::mem::replace(&mut self.waiting, true) {
                warn!("this Node has no podCIDRs or no uplink yet: pods wait until it has");
            }
            return;
        };
        self.waiting = false;
        if self.written.as_ref() == Some(planned) {
            return;
        }
        let file = self.conflist.path();
        match self.conflist.write(&planned.conflist(&self.data_dir)) {
            Ok(changed) => {
                if changed {
                    let ranges: Vec<_> = planned.ranges.iter().map(ToString::to_string).collect();
                    info!(file = %file.display(), ranges = ranges.join(", "), mtu = planned.mtu,
                        "the container runtime may connect pods");
                }
                if let Some(rival) = self.conflist.rival() {
                    warn!(rival = %rival.display(), "the container runtime takes this file, not ours: \
                        remove it, or set --cni=off");
                }
            }
            Err(error) => error!("the container runtime cannot be told of pods: {error}"),
        }
        // Also what failed: once for every recheck is often enough.
        self.written = Some(planned.clone());
    }

    /// Has the next [`Self::follow`] look at the file.
    pub(super) fn recheck(&mut self) {
        self.written = None;
    }
}
