//! XDP on uplinks: which mode a device is given.

use super::Device;
use std::str::FromStr;

/// Whether, and how, frames that only pass through the node are turned round before the kernel makes
/// packets of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Xdp {
    /// They are not: the tc programs do it all.
    #[default]
    Off,
    /// In the driver where it can, else in the kernel's network; where neither can, not at all.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's network, whatever the driver.
    Generic,
}

impl Xdp {
    /// All, as flags spell them.
    const NAMES: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("native", Self::Native),
        ("generic", Self::Generic),
        ("off", Self::Off),
    ];

    /// The modes to try on a device, in this order.
    pub(super) fn modes(self, device: &Device) -> &'static [Mode] {
        match self {
            Self::Off => &[],
            Self::Native => &[Mode::Native],
            Self::Generic => &[Mode::Generic],
            // The driver of a pair loses what is sent back unless the other end happens to be prepared
            // to take it, and does not say so.
            Self::Auto if device.pair => &[Mode::Generic],
            Self::Auto if device.mtu > NATIVE_MTU => {
                let (device, mtu) = (&device.name, device.mtu);
                tracing::warn!(device, mtu, "its frames are too big for native XDP");
                &[Mode::Generic]
            }
            Self::Auto => &[Mode::Native, Mode::Generic],
        }
    }
}

impl std::fmt::Display for Xdp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(_, xdp)| xdp == self).map_or("", |(name, _)| name))
    }
}

impl FromStr for Xdp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        let names = Self::NAMES.map(|(name, _)| name).join(", ");
        found.map(|(_, xdp)| *xdp).ok_or_else(|| format!("one of {names}"))
    }
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// In the driver.
    Native,
    /// In the kernel's network, on packets that the driver has made already.
    Generic,
}

impl Mode {
    pub(super) const ALL: [Self; 2] = [Self::Native, Self::Generic];

    /// The flag that asks the kernel for it (`XDP_FLAGS_DRV_MODE`, `XDP_FLAGS_SKB_MODE`).
    pub(super) const fn flag(self) -> u32 {
        match self {
            Self::Native => 1 << 2,
            Self::Generic => 1 << 1,
        }
    }

    /// What stands for the program in names of pins: the kernel does not say of a link which mode it is.
    pub(super) const fn pin(self) -> &'static str {
        match self {
            Self::Native => "xdp_native",
            Self::Generic => "xdp_generic",
        }
    }

    /// The name for people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Native => "xdp native",
            Self::Generic => "xdp generic",
        }
    }
}

/// Up to here frames surely fit one page together with what drivers put around them.
const NATIVE_MTU: u32 = 3_498;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_given_what_it_can_do() {
        let plain = Device {
            index: 2,
            name: "eth0".into(),
            mac: [0; 6],
            mtu: 1500,
            pair: false,
            peer_elsewhere: false,
            loopback: false,
            bridge: None,
            up: true,
        };
        let pair = Device { pair: true, ..plain.clone() };
        let jumbo = Device { mtu: 9_000, ..plain.clone() };
        let (native, generic): (&[Mode], &[Mode]) = (&[Mode::Native], &[Mode::Generic]);
        for (flag, of_plain, of_pair, of_jumbo) in [
            ("off", &[][..], &[][..], &[][..]),
            ("auto", &Mode::ALL, generic, generic),
            ("native", native, native, native),
            ("generic", generic, generic, generic),
        ] {
            let xdp: Xdp = flag.parse().expect("a mode");
            assert_eq!(xdp.to_string(), flag);
            assert_eq!(xdp.modes(&plain), of_plain, "{flag}");
            assert_eq!(xdp.modes(&pair), of_pair, "{flag}");
            assert_eq!(xdp.modes(&jumbo), of_jumbo, "{flag}");
        }
        assert!("on".parse::<Xdp>().is_err());
    }
}
