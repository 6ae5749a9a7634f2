//! Whether it means anything that nobody died.

use serde::{Deserialize, Serialize};

use super::rounded;

/// Fewer expected deaths than this, and none at all is no wonder: of three that are
/// expected, none comes with a probability of 5 % ("rule of three").
const EXPECTED_MIN: f64 = 3.0;
/// What may still be chance.
const CHANCE_MAX: f64 = 0.05;

/// Whether it means anything that nobody died.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Telling {
    /// It would be a strange chance.
    #[serde(rename = "significant")]
    Yes,
    /// Too few deaths were to be expected there.
    TooFewNodeDays,
    /// It was enough time, but the deaths are of so few nodes that it may be those.
    TooFewNodes,
    /// How long those lived that died was not seen.
    NotObserved,
}

/// Nobody died there: held against where somebody did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Deaths that were to be expected there, by how often nodes die where they do.
    pub expected: f64,
    /// The probability of none, if it made no difference. Deaths of one node count once,
    /// as what killed it may be its own; and it is for all comparisons that were made
    /// together, as one of many is always strange.
    pub chance: f64,
    /// What to think of it.
    pub telling: Telling,
}

/// Compares a time in which `deaths` of `nodes` fell with one in which none did, both in
/// milliseconds of all nodes together. `compared`: how many such comparisons are made.
///
/// If it made no difference, each death would have fallen into either time by their
/// lengths alone.
pub fn compare(
    (deaths, nodes): (u64, u64),
    died_ms: u64,
    without_ms: u64,
    compared: usize,
) -> Comparison {
    if died_ms == 0 || deaths == 0 {
        return Comparison {
            expected: 0.0,
            chance: 1.0,
            telling: Telling::NotObserved,
        };
    }
    let (died, without) = (died_ms as f64, without_ms as f64);
    let expected = deaths as f64 * without / died;
    let once = (died / (died + without)).powf(nodes as f64);
    let chance = (once * compared.max(1) as f64).min(1.0);
    let telling = if expected < EXPECTED_MIN {
        Telling::TooFewNodeDays
    } else if chance > CHANCE_MAX {
        Telling::TooFewNodes
    } else {
        Telling::Yes
    };
    Comparison {
        expected: rounded(expected),
        chance: rounded(chance),
        telling,
    }
}
