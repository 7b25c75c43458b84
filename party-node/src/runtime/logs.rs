//! Logs on standard error: `p1/3 lane 2 | message` for people, one JSON object per line for machines.
//!
//! Who speaks comes from spans: a thread that enters `span!(.., party, parties, lane, epoch)` marks every event below
//! it. Events carry sizes, ids and reasons, never a share, an opened value or data.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl LogFormat {
    /// `MPC_LOG_FORMAT` (`text` or `json`) if set, else text on a terminal and JSON elsewhere.
    pub fn from_environment() -> Self {
        match std::env::var("MPC_LOG_FORMAT").as_deref() {
            Ok("text") => Self::Text,
            Ok("json") => Self::Json,
            _ if io::stderr().is_terminal() => Self::Text,
            _ => Self::Json,
        }
    }
}

/// Starts logging to standard error, at the level that `MPC_LOG` names (default `info`).
pub fn start() {
    let filter = EnvFilter::try_from_env("MPC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = subscriber(filter, LogFormat::from_environment(), io::stderr());
    // A second start in one process (a test) keeps the first.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// A subscriber that writes lines of `format` to `output`.
pub fn subscriber(filter: EnvFilter, format: LogFormat, output: impl Write + Send + 'static) -> impl Subscriber {
    Registry::default().with(Lines { format, output: Mutex::new(Box::new(output)) }.with_filter(filter))
}

/// Writes every event as one line, in a single write, so that lines of several threads never mix.
struct Lines {
    format: LogFormat,
    output: Mutex<Box<dyn Write + Send>>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut who = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<Fields>() {
                who.0.extend(fields.0.clone());
            }
        }
        let mut said = Fields::default();
        event.record(&mut said);
        let mut line = match self.format {
            LogFormat::Text => text_line(*event.metadata().level(), &who, said),
            LogFormat::Json => json_line(event, who, said),
        };
        line.push('\n');
        // Whoever reads the log may be gone; that is no reason to stop.
        let _ = self.output.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }
}

fn text_line(level: Level, who: &Fields, mut said: Fields) -> String {
    let mut line = String::new();
    if let Some(party) = who.0.get("party") {
        let _ = write!(line, "p{party}");
        if let Some(parties) = who.0.get("parties") {
            let _ = write!(line, "/{parties}");
        }
        // An event may speak of another lane than the one whose thread says it.
        if let Some(lane) = said.0.remove("lane").as_ref().or(who.0.get("lane")) {
            let _ = write!(line, " lane {lane}");
        }
        line.push_str(" | ");
    }
    line.push_str(match level {
        Level::ERROR => "error: ",
        Level::WARN => "warning: ",
        _ => "",
    });
    if let Some(message) = said.0.remove("message") {
        line.push_str(message.as_str().unwrap_or_default());
    }
    for (name, value) in &said.0 {
        let _ = write!(line, " {name}={value}");
    }
    // One event stays one line, whatever it quotes.
    line.replace(['\n', '\r'], " ")
}

fn json_line(event: &Event<'_>, who: Fields, said: Fields) -> String {
    let mut time = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let mut object = Map::new();
    object.insert("time".into(), time.into());
    object.insert("level".into(), event.metadata().level().as_str().to_lowercase().into());
    object.insert("target".into(), event.metadata().target().into());
    object.extend(who.0.into_iter().filter(|(name, _)| name != "parties"));
    object.extend(said.0);
    Value::Object(object).to_string()
}

/// The fields of a span or event.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tracing::{debug, info, info_span, warn};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log_something(format: LogFormat) -> Vec<String> {
        let captured = Captured::default();
        let subscriber = subscriber(EnvFilter::new("info"), format, captured.clone());
        tracing::subscriber::with_default(subscriber, || {
            info!("before any party");
            let _party = info_span!("party", party = 1u64, parties = 3u64, epoch = 7u64).entered();
            let _lane = info_span!("lane", lane = 2u64).entered();
            info!("trains on {} rows", 455);
            warn!(step = 40u64, peer = %"P0", "is slow:\nvery slow");
            debug!("not at this level");
        });
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn people_read_who_speaks_before_each_line() {
        let expected = [
            "before any party",
            "p1/3 lane 2 | trains on 455 rows",
            "p1/3 lane 2 | warning: is slow: very slow peer=\"P0\" step=40",
        ];
        assert_eq!(log_something(LogFormat::Text), expected);
    }

    #[test]
    fn machines_read_one_object_per_line() {
        let lines = log_something(LogFormat::Json);
        assert_eq!(lines.len(), 3);
        let last: Value = serde_json::from_str(&lines[2]).unwrap();
        for (name, value) in [("party", 1), ("lane", 2), ("epoch", 7), ("step", 40)] {
            assert_eq!(last[name], value, "{name}");
        }
        assert_eq!(last["level"], "warn");
        assert_eq!(last["message"], "is slow:\nvery slow");
        assert!(last["time"].as_str().unwrap().ends_with('Z'));
    }
}
