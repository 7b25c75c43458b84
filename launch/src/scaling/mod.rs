//! The simulator: how long a step takes on so many lanes, from what a machine can do (a calibration), what lies between the
//! parties, and the exact bytes and rounds of a lane's part. Pure: it reads no clock, no file, and starts nothing.

mod calibration;
mod forecast;
mod network;
#[cfg(test)]
mod points;

pub(crate) use calibration::{Calibration, CalibrationError, Kind};
pub(crate) use forecast::{Forecast, Mode, Observed, Simulator, Work};
pub(crate) use network::{Link, Network};
