//! NVIDIA's management library, which the driver brings with it.

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use nvml_wrapper::{Device, Nvml};

use super::gpus::{Reading, Sampler};

/// Errors of one GPU that are taken at a time: a broken one may report without end.
const ERRORS_AT_ONCE_MAX: u64 = 1000;

struct Sampled {
    index: u32,
    device: Device<'static>,
    /// None where the driver does not let this process listen.
    events: Option<EventSet<'static>>,
    errors: u64,
}

struct NvmlSampler(Vec<Sampled>);

/// Opens it, if it is there and sees a GPU.
pub(super) fn open() -> Option<Box<dyn Sampler>> {
    match sampler() {
        Ok(sampler) if !sampler.0.is_empty() => Some(Box::new(sampler)),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%error, "no metrics of GPUs");
            None
        }
    }
}

fn sampler() -> Result<NvmlSampler, NvmlError> {
    // Devices and sets of events borrow it, and a party keeps them until it ends: what is never closed lends for good.
    let nvml: &'static Nvml = Box::leak(Box::new(Nvml::init()?));
    let sampled = |index| {
        let device = nvml.device_by_index(index).ok()?;
        let listening = |events| device.register_events(EventTypes::CRITICAL_XID_ERROR, events).ok();
        let events = nvml.create_event_set().ok().and_then(listening);
        Some(Sampled { index, device, events, errors: 0 })
    };
    Ok(NvmlSampler((0..nvml.device_count()?).filter_map(sampled).collect()))
}

impl Sampler for NvmlSampler {
    fn sample(&mut self) -> Vec<Reading> {
        self.0.iter_mut().map(Sampled::read).collect()
    }
}

impl Sampled {
    fn read(&mut self) -> Reading {
        self.count_errors();
        let device = &self.device;
        Reading {
            gpu: self.index,
            utilisation: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
            used_free_bytes: device.memory_info().ok().map(|memory| [memory.used, memory.free]),
            power_watts: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0),
            temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
            xid_errors: self.events.as_ref().map(|_| self.errors),
        }
    }

    /// Takes what has been reported since the last time, without waiting for more.
    fn count_errors(&mut self) {
        let Some(events) = &self.events else { return };
        let reported = std::iter::repeat_with(|| events.wait(0)).take_while(Result::is_ok);
        self.errors += reported.zip(0..ERRORS_AT_ONCE_MAX).fold(0, |count, _| count + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_library_there_is_nobody_to_ask_and_with_it_gpus_answer() {
        match Nvml::init() {
            Err(_) => assert!(open().is_none()),
            Ok(nvml) => {
                let count = nvml.device_count().unwrap() as usize;
                let readings = open().map_or(vec![], |mut sampler| sampler.sample());
                assert!(readings.len() <= count);
                assert!(readings.iter().all(|reading| reading.utilisation.is_none_or(|part| part <= 1.0)));
            }
        }
    }
}
