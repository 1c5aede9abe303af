//! Watches on an API server.

use super::convert::{self, Names};
use crate::model::{Event, Kind, ObjectName};
use futures::StreamExt;
use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use kube::{
    Api, Client, Resource,
    runtime::watcher::{self, Config, watcher},
};
use serde::de::DeserializeOwned;
use std::{collections::HashSet, fmt::Debug, time::Duration};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tracing::{debug, info, warn};

/// What a source of objects reports.
#[derive(Clone, PartialEq, Debug)]
pub enum News {
    /// About an object.
    Event(Event),
    /// Objects of this kind may not be read; do not wait for them.
    Unavailable(Kind),
}

/// Watches everything that the model holds, Pods of the node `node` only. The tasks live as long as
/// the returned set.
pub fn watch(client: &Client, node: &str, news: &mpsc::Sender<News>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let follow = |kind| Follow {
        kind,
        config: Config::default(),
        news: news.clone(),
        seen: HashSet::new(),
        failing: None,
        given_up: false,
    };
    tasks.spawn(follow(Kind::Service).run(
        Api::<core::Service>::all(client.clone()),
        |object: &core::Service| convert::namespaced(&object.metadata),
        |object: &core::Service| Some(Event::Service(convert::service(object))),
    ));
    let mut names = Names::default();
    tasks.spawn(follow(Kind::Slice).run(
        Api::<discovery::EndpointSlice>::all(client.clone()),
        |object: &discovery::EndpointSlice| convert::namespaced(&object.metadata),
        move |object: &discovery::EndpointSlice| {
            convert::slice(object, &mut names).map(Event::Slice)
        },
    ));
    let mut names = Names::default();
    tasks.spawn(follow(Kind::Node).run(
        Api::<core::Node>::all(client.clone()),
        |object: &core::Node| convert::cluster(&object.metadata),
        move |object: &core::Node| Some(Event::Node(convert::node(object, &mut names))),
    ));
    tasks.spawn(follow(Kind::ServiceCidr).run(
        Api::<networking::ServiceCIDR>::all(client.clone()),
        |object: &networking::ServiceCIDR| convert::cluster(&object.metadata),
        |object: &networking::ServiceCIDR| Some(Event::ServiceCidr(convert::service_cidr(object))),
    ));
    let mut names = Names::default();
    let here = Config::default().fields(&format!("spec.nodeName={node}"));
    tasks.spawn(Follow { config: here, ..follow(Kind::Pod) }.run(
        Api::<core::Pod>::all(client.clone()),
        |object: &core::Pod| convert::namespaced(&object.metadata),
        move |object: &core::Pod| Some(Event::Pod(convert::pod(object, &mut names))),
    ));
    tasks
}

/// One kind of object.
struct Follow {
    kind: Kind,
    /// Which of them, listed by pages.
    config: Config,
    news: mpsc::Sender<News>,
    /// Objects of the list that is under way.
    seen: HashSet<ObjectName>,
    /// Since when attempts fail.
    failing: Option<Instant>,
    /// Whether the others have been told not to wait.
    given_up: bool,
}

/// Why a watch was given up.
enum End {
    /// Nobody listens any more.
    Closed,
    /// The server does not know streaming lists.
    NoStreaming,
}

impl Follow {
    /// Watches for ever, by a streaming list where the server has them.
    async fn run<K>(
        mut self,
        api: Api<K>,
        name: impl Fn(&K) -> ObjectName,
        mut convert: impl FnMut(&K) -> Option<Event>,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        if let End::NoStreaming = self.follow(&api, true, &name, &mut convert).await {
            info!(kind = ?self.kind, "the API server has no streaming lists; listing by pages");
            self.follow(&api, false, &name, &mut convert).await;
        }
    }

    async fn follow<K>(
        &mut self,
        api: &Api<K>,
        streaming: bool,
        name: &impl Fn(&K) -> ObjectName,
        convert: &mut impl FnMut(&K) -> Option<Event>,
    ) -> End
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let mut config = self.config.clone();
        if streaming {
            config = config.streaming_lists();
        }
        let mut stream = watcher(api.clone(), config.clone()).boxed();
        let mut delay = FIRST_DELAY;
        let mut deadline: Option<Instant> = None;
        loop {
            // A server that does not know the parameter never marks the end of the list.
            let next = match deadline.filter(|_| streaming) {
                Some(deadline) => match timeout_at(deadline, stream.next()).await {
                    Ok(next) => next,
                    Err(_elapsed) => return End::NoStreaming,
                },
                None => stream.next().await,
            };
            match next {
                Some(Ok(event)) => {
                    match &event {
                        watcher::Event::Init => deadline = Some(Instant::now() + LIST_TIME),
                        watcher::Event::InitDone => deadline = None,
                        _ => deadline = deadline.map(|_| Instant::now() + LIST_TIME),
                    }
                    delay = FIRST_DELAY;
                    self.given_up = false;
                    if self.failing.take().is_some() {
                        info!(kind = ?self.kind, "watching again");
                    }
                    if self.report(event, name, convert).await.is_err() {
                        return End::Closed;
                    }
                }
                Some(Err(error)) => {
                    deadline = None;
                    let code = code(&error);
                    if streaming && matches!(code, Some(400 | 422)) {
                        return End::NoStreaming;
                    }
                    if code == Some(GONE) && matches!(error, watcher::Error::WatchStartFailed(_)) {
                        // It would ask for the same version for ever; only where the watch itself says
                        // that it has expired does it list again.
                        stream = watcher(api.clone(), config.clone()).boxed();
                    }
                    if self.failed(&error, code).await.is_err() {
                        return End::Closed;
                    }
                    sleep(delay).await;
                    let optional = is_optional(self.kind) && is_refusal(code);
                    delay = (delay * 2).min(if optional { OPTIONAL_DELAY } else { LAST_DELAY });
                }
                None => stream = watcher(api.clone(), config.clone()).boxed(),
            }
        }
    }

    async fn report<K>(
        &mut self,
        event: watcher::Event<K>,
        name: &impl Fn(&K) -> ObjectName,
        convert: &mut impl FnMut(&K) -> Option<Event>,
    ) -> Result<(), mpsc::error::SendError<News>> {
        let event = match event {
            watcher::Event::Init => {
                self.seen.clear();
                return Ok(());
            }
            watcher::Event::InitApply(object) => {
                let Some(event) = convert(&object) else {
                    return Ok(());
                };
                self.seen.insert(name(&object));
                event
            }
            watcher::Event::InitDone => {
                let seen = std::mem::take(&mut self.seen);
                debug!(kind = ?self.kind, objects = seen.len(), "listed");
                Event::Listed(self.kind, seen)
            }
            watcher::Event::Apply(object) => {
                convert(&object).unwrap_or_else(|| Event::Deleted(self.kind, name(&object)))
            }
            watcher::Event::Delete(object) => Event::Deleted(self.kind, name(&object)),
        };
        self.news.send(News::Event(event)).await
    }

    /// Logs the first failure of a row. Refusals that last make others not wait; a server that is
    /// just starting refuses everybody for a moment.
    async fn failed(
        &mut self,
        error: &watcher::Error,
        code: Option<u16>,
    ) -> Result<(), mpsc::error::SendError<News>> {
        let kind = self.kind;
        // Expiry and silence are how watches end; it counts if none can be started then.
        if code == Some(GONE) || matches!(error, watcher::Error::WatchFailed(_)) {
            debug!(?kind, %error, "the watch has ended");
            return Ok(());
        }
        let since = *self.failing.get_or_insert_with(|| {
            warn!(?kind, error = reason(error), "watch failed; what is known stays, trying again");
            Instant::now()
        });
        // Services do not wait for what they work without.
        let patience = if kind == Kind::Pod { Duration::ZERO } else { PATIENCE };
        if is_refusal(code) && since.elapsed() >= patience && !self.given_up {
            self.given_up = true;
            warn!(
                ?kind,
                error = reason(error),
                lost = loss(kind),
                "going on without these objects"
            );
            self.news.send(News::Unavailable(kind)).await?;
        }
        Ok(())
    }
}

/// What went wrong, without the server's whole answer.
fn reason(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// The server's answer, if it gave one.
fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        },
        watcher::Error::WatchError(status) => Some(status.code),
        watcher::Error::NoResourceVersion => None,
    }
}

/// Whether asking again soon is pointless: forbidden, or no such kind of object.
fn is_refusal(code: Option<u16>) -> bool {
    matches!(code, Some(403 | 404))
}

/// Kinds that older roles do not know of.
fn is_optional(kind: Kind) -> bool {
    matches!(kind, Kind::ServiceCidr | Kind::Pod)
}

/// What does not work without objects of this kind.
fn loss(kind: Kind) -> &'static str {
    match kind {
        Kind::Service | Kind::Slice => "nothing works",
        Kind::Node => "zones, podCIDRs and routes to other nodes are not known",
        Kind::ServiceCidr => "service addresses that nobody has are not dropped",
        Kind::Pod => "host ports of pods are not served, workloads are not named",
    }
}

/// What the server says when it no longer knows the version from which to go on.
const GONE: u16 = 410;

/// Pause after a first failure; it doubles up to [`LAST_DELAY`].
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(5);

const OPTIONAL_DELAY: Duration = Duration::from_mins(1);

/// How long refusals may last until others no longer wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longest pause between two objects of a streaming list.
const LIST_TIME: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests;
