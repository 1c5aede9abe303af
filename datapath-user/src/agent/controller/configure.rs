//! What `CONFIG` says.

use super::{Controller, HostHooks, Kernel};
use crate::model::Family;
use datapath_common::{Addr, Config, ConfigFlags, Timeouts};
use tracing::{error, info};

impl<K: Kernel> Controller<K> {
    /// Writes what the programs must know of their node, if it has changed.
    pub(super) fn set_config(&mut self) {
        let network = self.planner.network();
        let node = self.node();
        let address = |family, unspecified: Addr| {
            network.node_address(node, family).map_or(unspecified, Addr::from)
        };
        let flags = self.config_flags();
        let uplink = network.uplinks.first();
        let (port_min, port_max) = self.planner.settings().masquerade_ports;
        let config = Config {
            host_netns: self.settings.host_netns,
            node_v4: address(Family::V4, Addr::UNSPECIFIED_V4),
            node_v6: address(Family::V6, Addr::UNSPECIFIED_V6),
            uplink: uplink.map_or(0, |uplink| uplink.device),
            flags,
            port_min,
            port_max,
            uplink_mac: uplink.map_or([0; 6], |uplink| uplink.mac),
            pad: [0; 2],
            timeouts: Timeouts::DEFAULT,
        };
        if self.config == Some(config) {
            return;
        }
        info!(v4 = %config.node_v4, v6 = %config.node_v6, uplink = config.uplink,
            carries_pods = self.planner.carries_pods(), "this node");
        match self.kernel.set_config(&config) {
            Ok(()) => self.config = Some(config),
            Err(error) => error!(%error, "the configuration could not be written"),
        }
    }

    fn config_flags(&self) -> ConfigFlags {
        let all_pods = self.planner.all_pods_count();
        let addresses = &self.planner.settings().node_port_addresses;
        let switches = [
            (ConfigFlags::NATIVE_ROUTING, self.planner.carries_pods()),
            (ConfigFlags::TUNNELS, self.planner.routing().has_tunnels() || self.planner.has_dsr()),
            (ConfigFlags::MASQUERADE_OUTSIDE, self.planner.settings().masquerades()),
            (ConfigFlags::LOCAL_DETECTOR, self.planner.detects_pods()),
            (ConfigFlags::LOCAL_BY_DEVICE, self.planner.detects_by_device()),
            (ConfigFlags::ALL_PODS_V4, all_pods.contains(&Family::V4)),
            (ConfigFlags::ALL_PODS_V6, all_pods.contains(&Family::V6)),
            (ConfigFlags::LOCALHOST_V4, addresses.include_localhost(Family::V4)),
            (ConfigFlags::LOCALHOST_V6, addresses.include_localhost(Family::V6)),
            (ConfigFlags::LOOPBACK, self.host_hooks != HostHooks::Sockets),
        ];
        let on = switches.into_iter().filter(|(_, on)| *on);
        on.fold(ConfigFlags::default(), |flags, (flag, _)| flags.with(flag))
    }
}
