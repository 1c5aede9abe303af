//! A row of the table: what is in the cluster, what is asked, and what must come of it.

use super::{
    Column,
    place::{Client, Endpoint, Target, WAYS, Way},
    trial::Trial,
};
use crate::topology::{Family, NodeSpec};
use anyhow::Result;
use serde_json::{Value, json};

pub use super::want::{Seen, Want, masked, mirrored, otherwise, reach, refused, silence};

/// A row of the table.
#[derive(Debug)]
pub struct Case {
    /// Short and unique; also the name of its Services.
    pub name: &'static str,
    /// Section of the reference.
    pub section: &'static str,
    /// What it shows, as the reference says it; for a case of an upstream test, that test's name.
    pub title: &'static str,
    /// How the proxies are started.
    pub setup: Setup,
    /// Whether it disturbs others and so runs by itself.
    pub alone: bool,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// How the proxies are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setup {
    /// As on a cluster that nobody has tuned.
    Usual,
    /// Everything to a ClusterIP is masqueraded; NodePorts on all addresses.
    MasqueradeAll,
    /// NodePorts on the IPv4 addresses of a range; kube-proxy does not know which sources are pods.
    Range,
    /// The proxy has a name.
    Named,
    /// Only the Node's own podCIDRs tell which clients are pods of the node.
    NodeRanges,
    /// The names of interfaces tell it.
    Interfaces,
}

impl Setup {
    /// All, in the order they run.
    pub const ALL: [Self; 6] = [
        Self::Usual,
        Self::MasqueradeAll,
        Self::Range,
        Self::Named,
        Self::NodeRanges,
        Self::Interfaces,
    ];
}

/// What a case does next.
#[derive(Debug)]
pub enum Step {
    /// Changes the cluster.
    Act(Act),
    /// Asks.
    Expect(Expect),
    /// Finds out something else.
    Check(Check),
}

/// A change.
pub enum Act {
    /// A new Service with the ports 80 of all protocols; what it has else is merged in.
    Service(&'static str, Value),
    /// Pods of the case's own: name, node.
    Pods(&'static [(&'static str, &'static NodeSpec)]),
    /// Merges into a Service.
    Patch(&'static str, Value),
    /// Merges into the Service, whose addresses from before are still asked.
    Last(Value),
    /// Deletes a Service; its slices stay.
    Delete(&'static str),
    /// The Service's EndpointSlices, in place of those from before.
    Slices(&'static str, Vec<Slice>),
    /// Anything else.
    Other(&'static str, fn(&Trial<'_>) -> Result<()>),
}

impl std::fmt::Debug for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(name, spec) => write!(f, "Service({name:?}, {spec})"),
            Self::Pods(pods) => write!(f, "Pods({} pods)", pods.len()),
            Self::Patch(name, patch) => write!(f, "Patch({name:?}, {patch})"),
            Self::Last(patch) => write!(f, "Last({patch})"),
            Self::Delete(name) => write!(f, "Delete({name:?})"),
            Self::Slices(name, slices) => write!(f, "Slices({name:?}, {} slices)", slices.len()),
            Self::Other(what, _) => write!(f, "Other({what:?})"),
        }
    }
}

/// An EndpointSlice, of each family one.
#[derive(Clone, Debug, Default)]
pub struct Slice {
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// What it has else, or otherwise.
    pub more: Value,
}

/// Requests and what must come of them.
#[derive(Debug)]
pub struct Expect {
    /// Who asks.
    pub clients: Vec<Client>,
    /// What.
    pub target: Target,
    /// How.
    pub ways: Vec<Way>,
    /// Over what.
    pub families: Vec<Family>,
    /// What must come of each.
    pub want: Want,
    /// Where that is otherwise.
    pub unlike: Vec<Unlike>,
}

/// Another look at the cluster.
pub struct Check {
    /// What it makes sure of.
    pub what: &'static str,
    /// Fails where that is not so.
    pub body: fn(&Trial<'_>) -> Result<()>,
    /// Where it must fail.
    pub unlike: Vec<Unlike>,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Check({:?})", self.what)
    }
}

/// A difference that is known and meant.
#[derive(Clone, Debug)]
pub struct Unlike {
    /// Who differs.
    pub columns: Vec<Column>,
    /// Only for this client and these ways, where it is not for all.
    pub of: Option<(Client, Vec<Way>)>,
    /// What comes of it there.
    pub want: Want,
    /// Why.
    pub reason: &'static str,
}

/// Starts a row.
pub fn case(section: &'static str, name: &'static str, title: &'static str) -> Case {
    Case { name, section, title, setup: Setup::Usual, alone: false, steps: Vec::new() }
}

impl Case {
    /// Starts the proxies this way.
    #[must_use]
    pub fn under(mut self, setup: Setup) -> Self {
        self.setup = setup;
        self
    }

    /// Runs by itself.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// The case's Service: the ports 80 over TCP, UDP and SCTP, and what `spec` says. In `spec`,
    /// `metadata` and `status` go to those parts of the object.
    #[must_use]
    pub fn service(self, spec: Value) -> Self {
        self.service_named("", spec)
    }

    /// Another Service.
    #[must_use]
    pub fn service_named(self, name: &'static str, spec: Value) -> Self {
        self.act(Act::Service(name, spec))
    }

    /// Pods of the case's own, with its name as label `app`.
    #[must_use]
    pub fn pods(self, pods: &'static [(&'static str, &'static NodeSpec)]) -> Self {
        self.act(Act::Pods(pods))
    }

    /// Changes the Service.
    #[must_use]
    pub fn patch(self, patch: Value) -> Self {
        self.act(Act::Patch("", patch))
    }

    /// Changes the Service, and goes on asking the addresses that it had before.
    #[must_use]
    pub fn patch_and_remember(self, patch: Value) -> Self {
        self.act(Act::Last(patch))
    }

    /// Deletes the Service.
    #[must_use]
    pub fn delete(self) -> Self {
        self.act(Act::Delete(""))
    }

    /// The Service's endpoints, in place of those from before.
    #[must_use]
    pub fn endpoints(self, endpoints: &[Endpoint]) -> Self {
        self.endpoints_of("", endpoints)
    }

    /// The endpoints of another Service.
    #[must_use]
    pub fn endpoints_of(self, service: &'static str, endpoints: &[Endpoint]) -> Self {
        let slice = Slice { endpoints: endpoints.to_vec(), more: json!({}) };
        self.act(Act::Slices(service, vec![slice]))
    }

    /// The Service's slices: endpoints, and what is merged into the object.
    #[must_use]
    pub fn slices(self, slices: &[(&[Endpoint], Value)]) -> Self {
        let slices = slices
            .iter()
            .map(|(endpoints, more)| Slice { endpoints: endpoints.to_vec(), more: more.clone() });
        self.act(Act::Slices("", slices.collect()))
    }

    /// Changes something else.
    #[must_use]
    pub fn then(self, what: &'static str, body: fn(&Trial<'_>) -> Result<()>) -> Self {
        self.act(Act::Other(what, body))
    }

    fn act(mut self, act: Act) -> Self {
        self.steps.push(Step::Act(act));
        self
    }

    /// Requires something of requests from everywhere in `clients`, over all protocols and families.
    #[must_use]
    pub fn expect(mut self, clients: &[Client], target: Target, want: Want) -> Self {
        self.steps.push(Step::Expect(Expect {
            clients: clients.to_vec(),
            target,
            ways: WAYS.to_vec(),
            families: Family::ALL.to_vec(),
            want,
            unlike: Vec::new(),
        }));
        self
    }

    /// Of the last expectation: only these ways.
    #[must_use]
    pub fn over(mut self, ways: &[Way]) -> Self {
        if let Some(Step::Expect(expect)) = self.steps.last_mut() {
            expect.ways = ways.to_vec();
        }
        self
    }

    /// Of the last expectation: only this family.
    #[must_use]
    pub fn family(mut self, family: Family) -> Self {
        if let Some(Step::Expect(expect)) = self.steps.last_mut() {
            expect.families = vec![family];
        }
        self
    }

    /// Requires something that `body` finds out.
    #[must_use]
    pub fn check(mut self, what: &'static str, body: fn(&Trial<'_>) -> Result<()>) -> Self {
        self.steps.push(Step::Check(Check { what, body, unlike: Vec::new() }));
        self
    }

    /// Of the last expectation or check: in these columns it is otherwise, and why.
    #[must_use]
    pub fn but(self, columns: &[Column], want: Want, reason: &'static str) -> Self {
        self.unlike(Unlike { columns: columns.to_vec(), of: None, want, reason })
    }

    /// Of the last expectation: for one client and some ways it is otherwise.
    #[must_use]
    pub fn but_for(
        self,
        client: Client,
        ways: &[Way],
        columns: &[Column],
        want: Want,
        reason: &'static str,
    ) -> Self {
        let of = Some((client, ways.to_vec()));
        self.unlike(Unlike { columns: columns.to_vec(), of, want, reason })
    }

    fn unlike(mut self, unlike: Unlike) -> Self {
        match self.steps.last_mut() {
            Some(Step::Expect(expect)) => expect.unlike.push(unlike),
            Some(Step::Check(check)) => check.unlike.push(unlike),
            Some(Step::Act(_)) | None => {}
        }
        self
    }
}

impl Expect {
    /// What must come of it in a column for one client and way.
    pub fn want_in(&self, column: Column, client: Client, way: Way) -> &Want {
        let unlike = self.unlike.iter().find(|unlike| {
            let of = unlike.of.as_ref();
            unlike.columns.contains(&column)
                && of.is_none_or(|(one, ways)| *one == client && ways.contains(&way))
        });
        unlike.map_or(&self.want, |unlike| &unlike.want)
    }
}

/// The first that is said of a column.
pub fn find(unlike: &[Unlike], column: Column) -> Option<&Unlike> {
    unlike.iter().find(|unlike| unlike.columns.contains(&column))
}

impl std::fmt::Display for Expect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clients: Vec<_> = self.clients.iter().map(|client| client.label).collect();
        write!(f, "{} → {}", clients.join(", "), self.target)?;
        if self.ways != WAYS {
            let ways: Vec<_> = self.ways.iter().map(Way::to_string).collect();
            write!(f, " ({})", ways.join(", "))?;
        }
        if let [family] = *self.families {
            write!(f, " (IP{family})")?;
        }
        Ok(())
    }
}
