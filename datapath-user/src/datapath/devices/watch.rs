//! Following the kernel's messages.

use super::{
    super::Error,
    Snapshot,
    state::{Effect, State},
};
use futures::{StreamExt, TryStreamExt, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload},
    packet_route::{AddressFamily, RouteNetlinkMessage, route::RouteMessage},
    sys::SocketAddr,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    sync::watch::{self, Receiver, Sender},
    time::{Instant, interval_at, timeout_at},
};

type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// Messages that arrive this soon after each other become one change: a new interface with its
/// address and routes.
const COALESCE: Duration = Duration::from_millis(5);
/// How often everything is listed again, in case a message was lost.
const RESYNC: Duration = Duration::from_mins(1);
/// How long the kernel may take to remove what it does not tell of: it tells that a device is down
/// before it drops the routes.
const SETTLE: Duration = Duration::from_millis(200);
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Follows the network namespace of the calling thread. The first value is complete; a change
/// arrives within some milliseconds. It ends when the last receiver is dropped.
pub async fn watch() -> Result<Receiver<Arc<Snapshot>>, Error> {
    let (connection, handle, messages) = rtnetlink::new_multicast_connection(&GROUPS)
        .map_err(Error::system("opening a netlink socket"))?;
    let connection = tokio::spawn(connection);
    let state = list(&handle).await?;
    let (sender, receiver) = watch::channel(Arc::new(state.snapshot()));
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = follow(&handle, messages, state, &sender) => {
                tracing::error!("the kernel's netlink socket was closed");
            }
        }
        connection.abort();
    });
    Ok(receiver)
}

async fn follow(
    handle: &Handle,
    mut messages: Messages,
    mut state: State,
    sender: &Sender<Arc<Snapshot>>,
) {
    let mut resync = interval_at(Instant::now() + RESYNC, RESYNC);
    loop {
        let (mut list_now, mut list_again) = (false, false);
        tokio::select! {
            message = messages.next() => {
                let Some((message, _)) = message else { return };
                list_again |= apply(&mut state, &message) == Effect::Untold;
            }
            _ = resync.tick() => list_now = true,
        }
        let until = Instant::now() + COALESCE;
        while let Ok(message) = timeout_at(until, messages.next()).await {
            let Some((message, _)) = message else { return };
            list_again |= apply(&mut state, &message) == Effect::Untold;
        }
        if list_again {
            resync.reset_after(SETTLE);
        }
        if list_now || list_again {
            match list(handle).await {
                Ok(listed) => state = listed,
                Err(error) => tracing::warn!(%error, "the node's network could not be listed"),
            }
        }
        sender.send_if_modified(|known| {
            let snapshot = state.snapshot();
            let changed = **known != snapshot;
            if changed {
                *known = Arc::new(snapshot);
            }
            changed
        });
    }
}

fn apply(state: &mut State, message: &NetlinkMessage<RouteNetlinkMessage>) -> Effect {
    match &message.payload {
        NetlinkPayload::InnerMessage(inner) => {
            state.apply(inner, message.header.flags & NLM_F_REPLACE != 0)
        }
        // The socket's buffer was full: messages are lost.
        NetlinkPayload::Overrun(_) => Effect::Untold,
        _ => Effect::Told,
    }
}

/// Asks the kernel for everything. Messages that arrive meanwhile are applied after it: at worst
/// they say again what the lists say already.
async fn list(handle: &Handle) -> Result<State, Error> {
    let what = |what| move |error| Error::system(what)(io::Error::other(error));
    let mut state = State::default();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.map_err(what("listing devices"))? {
        state.apply(&RouteNetlinkMessage::NewLink(link), false);
    }
    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses.try_next().await.map_err(what("listing addresses"))? {
        state.apply(&RouteNetlinkMessage::NewAddress(address), false);
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let mut routes = handle.route().get(request).execute();
        while let Some(route) = routes.try_next().await.map_err(what("listing routes"))? {
            state.apply(&RouteNetlinkMessage::NewRoute(route), false);
        }
    }
    let mut neighbours = handle.neighbours().get().execute();
    while let Some(neighbour) = neighbours.try_next().await.map_err(what("listing neighbours"))? {
        state.apply(&RouteNetlinkMessage::NewNeighbour(neighbour), false);
    }
    Ok(state)
}
