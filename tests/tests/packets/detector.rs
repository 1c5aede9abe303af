//! Which clients count as pods: by their address, or by the device that they come in by.

use crate::{
    frame::{describe, frame},
    node::{DEVICE, FROM_POD, FROM_UPLINK, NODE, TO_UPLINK},
    reference,
};
use datapath_common::ConfigFlags;

const BY_ADDRESS: ConfigFlags = ConfigFlags::LOCAL_DETECTOR;
const BY_DEVICE: ConfigFlags = BY_ADDRESS.with(ConfigFlags::LOCAL_BY_DEVICE);
/// The address of a pod that the ranges know, and one of a pod that they do not.
const KNOWN: &str = "10.10.3.5";
const STRANGE: &str = "192.168.5.5";

#[test]
fn only_clients_that_count_as_pods_keep_their_address() {
    for (title, flags, device, hook, client, source) in [
        ("its address counts", BY_ADDRESS, 0, FROM_POD, KNOWN, KNOWN),
        ("its address does not count", BY_ADDRESS, DEVICE, FROM_POD, STRANGE, NODE),
        ("it is no pod of this node", BY_ADDRESS, DEVICE, FROM_UPLINK, KNOWN, NODE),
        ("nobody counts", ConfigFlags::default(), DEVICE, FROM_POD, KNOWN, NODE),
        ("its device counts", BY_DEVICE, DEVICE, FROM_POD, STRANGE, STRANGE),
        ("another device counts", BY_DEVICE, DEVICE + 1, FROM_POD, KNOWN, NODE),
        ("it comes from outside", BY_DEVICE, DEVICE, FROM_UPLINK, STRANGE, NODE),
        ("it is the host", BY_DEVICE, DEVICE + 1, TO_UPLINK, NODE, NODE),
    ] {
        let Some(mut node) = reference() else { return };
        node.pod(STRANGE);
        node.configure(ConfigFlags::NATIVE_ROUTING.with(flags));
        node.local_device(device);
        let (_, out) = node.run(hook, &frame(&format!("{client}:40000 > 10.200.1.10:80 tcp S")));
        let out = describe(&out);
        assert!(out.starts_with(&format!("{source}:")), "{title}: {out}");
        assert!(out.contains(" > 10.10.1.7:8080 "), "{title}: {out}");
    }
}
