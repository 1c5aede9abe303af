//! Running a property over random histories, so that every failure can be run again.

use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};
use std::{
    env,
    fmt::Debug,
    hash::{BuildHasher as _, RandomState},
};

/// Chooses the histories; without it they are new ones in every run.
pub const SEED: &str = "DATAPATH_SEED";
/// How many histories there are in place of the usual number.
pub const CASES: &str = "PROPTEST_CASES";

/// The seed that the environment names, else a new one.
pub fn seed() -> u64 {
    let named = env::var(SEED).ok().and_then(|text| text.parse().ok());
    named.unwrap_or_else(|| RandomState::new().hash_one(0))
}

/// A source of random values that follows from `seed`.
pub fn runner(config: Config, seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// Requires that `holds` returns no complaint for `cases` random values.
///
/// # Panics
///
/// With the smallest value found for which it complains, and the seed to find it again.
pub fn check<S: Strategy>(cases: u32, values: &S, holds: impl Fn(S::Value) -> Result<(), String>)
where
    S::Value: Debug,
{
    let seed = seed();
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if env::var_os(CASES).is_none() {
        config.cases = cases;
    }
    let outcome =
        runner(config, seed).run(values, |value| holds(value).map_err(TestCaseError::fail));
    match outcome {
        Ok(()) => {}
        Err(TestError::Abort(reason)) => panic!("{SEED}={seed}: {reason}"),
        Err(TestError::Fail(reason, value)) => {
            panic!("{reason}\n{value:#?}\nto run it again: {SEED}={seed}")
        }
    }
}
