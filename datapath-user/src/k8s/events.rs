//! Events (`events.k8s.io/v1`): what the operator should know about a Service or this node.

use crate::model::ObjectName;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// What an Event is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// The Node of this name.
    Node(ObjectName),
    /// A Service.
    Service(ObjectName),
    /// A Pod.
    Pod(ObjectName),
}

/// A warning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// What it is about.
    pub subject: Subject,
    /// Why, in one word.
    pub reason: &'static str,
    /// What was being done, in one word.
    pub action: &'static str,
    /// For people.
    pub note: String,
}

/// The way to the API server's Events; without a server there is only the log.
#[derive(Clone, Debug)]
pub struct Events {
    sender: Option<mpsc::Sender<Warning>>,
}

impl Events {
    /// Without an API server.
    pub fn none() -> Self {
        Self { sender: None }
    }

    /// Events of the agent on `node`, written as long as somebody has the returned value.
    pub fn new(client: Client, node: &str) -> Self {
        let (sender, mut warnings) = mpsc::channel(WAITING);
        let reporter = Reporter { controller: "datapath".into(), instance: Some(node.into()) };
        let recorder = Recorder::new(client, reporter);
        tokio::spawn(async move {
            while let Some(Warning { subject, reason, action, mut note }) = warnings.recv().await {
                note.truncate(note.floor_char_boundary(LONGEST_NOTE));
                let event = Event {
                    type_: EventType::Warning,
                    reason: reason.to_owned(),
                    note: Some(note),
                    action: action.to_owned(),
                    secondary: None,
                };
                if let Err(error) = recorder.publish(&event, &reference(&subject)).await {
                    debug!(%error, reason, "the Event could not be written");
                }
            }
        });
        Self { sender: Some(sender) }
    }

    /// Logs the warning, and has an Event written. Never waits: an Event too many is lost.
    pub fn warn(&self, warning: Warning) {
        let Warning { subject, reason, note, .. } = &warning;
        match subject {
            Subject::Node(_) => warn!(reason, "{note}"),
            Subject::Service(service) => warn!(%service, reason, "{note}"),
            Subject::Pod(pod) => warn!(%pod, reason, "{note}"),
        }
        if let Some(sender) = &self.sender {
            let _ = sender.try_send(warning);
        }
    }
}

fn reference(subject: &Subject) -> ObjectReference {
    let (kind, name, namespace) = match subject {
        Subject::Node(name) => ("Node", name, None),
        Subject::Service(name) => ("Service", name, Some(name.namespace().to_owned())),
        Subject::Pod(name) => ("Pod", name, Some(name.namespace().to_owned())),
    };
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(name.name().to_owned()),
        namespace,
        ..ObjectReference::default()
    }
}

/// How many Events may wait for the API server.
const WAITING: usize = 64;

/// What the API server takes at most, in bytes.
const LONGEST_NOTE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::{Access, connect};
    use axum::{Json, Router, extract::Path, routing::post};
    use serde_json::Value;

    #[tokio::test]
    async fn a_warning_becomes_an_event_of_its_object() {
        let (written, mut events) = mpsc::channel(4);
        let create = async move |Path(namespace): Path<String>, Json(event): Json<Value>| {
            written.send((namespace, event.clone())).await.expect("somebody listens");
            Json(event)
        };
        let path = "/apis/events.k8s.io/v1/namespaces/{namespace}/events";
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let router = Router::new().route(path, post(create));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let access = Access { servers: vec![url], ..Access::default() };
        let client = connect(&access).await.expect("a client");
        let sender = Events::new(client, "n1");
        for (subject, kind, namespace) in [
            (Subject::Service(ObjectName::namespaced("shop", "web")), "Service", "shop"),
            (Subject::Pod(ObjectName::namespaced("shop", "web-1")), "Pod", "shop"),
            (Subject::Node(ObjectName::cluster("n1")), "Node", "default"),
        ] {
            let note = "x".repeat(2000);
            sender.warn(Warning { subject, reason: "AddressInUse", action: "Plan", note });
            let (found, event) = events.recv().await.expect("an event");
            assert_eq!(found, namespace);
            assert_eq!(event["regarding"]["kind"], kind);
            assert_eq!(event["reason"], "AddressInUse");
            assert_eq!(event["type"], "Warning");
            assert_eq!(event["reportingController"], "datapath");
            assert_eq!(event["note"].as_str().map(str::len), Some(1024));
        }
        server.abort();
    }
}
