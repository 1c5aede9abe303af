//! Whether the installation that this agent is part of still exists.

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client};
use std::{fs, time::Duration};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// The `DaemonSet` that this agent's pod belongs to.
#[derive(Clone, Debug)]
pub struct Installation {
    api: Api<DaemonSet>,
    name: String,
    /// Whether we could see it when we started.
    seen: bool,
}

/// What the API server said.
enum Answer {
    There,
    Gone,
    /// We may not ask.
    Refused,
    None,
}

impl Installation {
    /// The one of that name in our own namespace.
    pub async fn find(client: Client, name: String) -> Self {
        let namespace = fs::read_to_string(NAMESPACE_FILE).unwrap_or_default();
        let namespace = match namespace.trim() {
            "" => "kube-system",
            namespace => namespace,
        };
        let mut installation = Self { api: Api::namespaced(client, namespace), name, seen: false };
        installation.seen = matches!(installation.ask().await, Answer::There);
        if !installation.seen {
            warn!(
                daemonset = installation.name,
                namespace,
                "the DaemonSet cannot be seen; whatever ends this agent, the datapath stays"
            );
        }
        installation
    }

    /// Whether it was there when we started and is gone now, or with it our right to ask. No answer
    /// means no.
    pub async fn has_ended(&self) -> bool {
        if !self.seen {
            return false;
        }
        for _ in 0..TRIES {
            match self.ask().await {
                Answer::There => return false,
                Answer::Gone | Answer::Refused => {
                    info!(daemonset = self.name, "the installation has ended");
                    return true;
                }
                Answer::None => sleep(PAUSE).await,
            }
        }
        false
    }

    async fn ask(&self) -> Answer {
        match timeout(ANSWER_TIME, self.api.get_metadata(&self.name)).await {
            Ok(Ok(found)) if found.metadata.deletion_timestamp.is_none() => Answer::There,
            Ok(Ok(_)) => Answer::Gone,
            Ok(Err(kube::Error::Api(status))) => match status.code {
                404 => Answer::Gone,
                401 | 403 => Answer::Refused,
                _ => Answer::None,
            },
            Ok(Err(_)) | Err(_) => Answer::None,
        }
    }
}

const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Together less than the time that a pod has to end.
const TRIES: u32 = 3;
const ANSWER_TIME: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_secs(1);
