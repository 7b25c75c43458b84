//! The figures as a chart: speed-up over lanes, and where each step goes. Plain SVG with the viewer's own fonts and no
//! background of its own; colours keep their distance from black and from white, and follow the viewer's scheme where
//! it tells.

use std::fmt::Write as _;

use super::{Point, Report};
use crate::report::seconds;
use crate::scaling::Mode;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 420.0;
/// Left, top, right and bottom of the two panels.
const CURVES: [f64; 4] = [60.0, 50.0, 450.0, 350.0];
const BARS: [f64; 4] = [540.0, 50.0, 940.0, 350.0];
/// Width of the legend beside the bars.
const LEGEND: f64 = 135.0;
/// Classes of the phases that are told apart, as the style names them, and what the legend calls them.
const PHASES: [(&str, &[&str], &str); 5] = [
    ("compute", &["compute", "data"], "compute"),
    ("truncate", &["truncate"], "truncate"),
    ("send", &["open_send"], "send"),
    ("wait", &["open_wait"], "wait for peers"),
    ("lanes", &["allreduce"], "sum among lanes"),
];
const STYLE: &str = "\
text{font:13px sans-serif;fill:#6a737d}.title{font-size:15px}.axis{stroke:#808890;fill:none}.grid{stroke:#80889040;fill:none}\
.ideal{stroke:#808890;stroke-dasharray:6 4;fill:none}.weak{stroke:#2f7fd0;fill:#2f7fd0}.strong{stroke:#d0722f;fill:#d0722f}\
.line{stroke-width:2.5;fill:none}.ceiling{stroke-dasharray:2 4;stroke-width:1.5;fill:none}\
.predicted{stroke-dasharray:8 3 2 3;stroke-width:1.5;fill:none}\
.compute{fill:#2f7fd0}.truncate{fill:#3aa37a}.send{fill:#c9a227}.wait{fill:#d0722f}.lanes{fill:#9a6fc0}.other{fill:#808890}\
@media(prefers-color-scheme:dark){text{fill:#a8b0b8}}";

/// The whole picture.
pub(super) fn svg(report: &Report) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         role=\"img\" aria-labelledby=\"title desc\">\n<title id=\"title\">{}</title>\n<desc id=\"desc\">{}</desc>\n\
         <style>{STYLE}</style>\n",
        escaped(&format!("Scaling of {}: {} parties, {}", report.workload, report.parties, report.device)),
        escaped(&description(report))
    );
    curves(&mut svg, report);
    bars(&mut svg, report);
    svg + "</svg>\n"
}

/// What the picture shows, in words.
fn description(report: &Report) -> String {
    let mut words = String::new();
    for point in &report.points {
        // Writing to a string cannot fail.
        let _ = write!(
            words,
            "{} scaling, lanes {}: step {}, speed-up {:.2} of {:.0}, ceiling {:.2}, predicted {:.2}, network {:.0} %. ",
            point.mode.name(),
            point.lanes,
            seconds(point.seconds),
            point.speedup,
            point.speedup_ideal,
            point.speedup_ceiling,
            point.speedup_predicted,
            100.0 * point.network_share
        );
    }
    words.trim_end().into()
}

/// Speed-up over lanes: ideal, measured with its spread, ceiling, predicted.
fn curves(svg: &mut String, report: &Report) {
    let [left, top, right, bottom] = CURVES;
    let most = report.points.iter().map(|point| f64::from(point.lanes)).fold(2.0, f64::max);
    let of = |point: &Point| [point.speedup, point.speedup_ceiling, point.speedup_predicted].into_iter();
    let highest = report.points.iter().flat_map(of).fold(most, f64::max);
    let x = |lanes: f64| left + (right - left) * lanes / most;
    // Only the fastest step of a run may lie higher.
    let y = |speedup: f64| bottom - (bottom - top) * (speedup / highest).min(1.05);
    text(svg, left, top - 22.0, "start", "title", &format!("speed-up of {} over one lane", report.workload));
    for tick in ticks(highest) {
        line(svg, "grid", &[(left, y(tick)), (right, y(tick))]);
        text(svg, left - 8.0, y(tick) + 4.0, "end", "", &format!("{tick}"));
    }
    for tick in ticks(most) {
        text(svg, x(tick), bottom + 18.0, "middle", "", &format!("{tick}"));
    }
    line(svg, "axis", &[(left, top), (left, bottom), (right, bottom)]);
    text(svg, (left + right) / 2.0, bottom + 38.0, "middle", "", "lanes per party");
    line(svg, "ideal", &[(x(1.0), y(1.0)), (x(most), y(most))]);
    for mode in report.modes() {
        let name = mode.name();
        let curve = |of: fn(&Point) -> f64| -> Vec<(f64, f64)> {
            report.of(mode).map(|point| (x(point.lanes.into()), y(of(point)))).collect()
        };
        line(svg, &format!("{name} ceiling"), &curve(|point| point.speedup_ceiling));
        line(svg, &format!("{name} predicted"), &curve(|point| point.speedup_predicted));
        line(svg, &format!("{name} line"), &curve(|point| point.speedup));
        for point in report.of(mode) {
            let (at, speedup) = (x(point.lanes.into()), |step: f64| y(point.speedup * point.seconds / step));
            line(svg, name, &[(at, speedup(point.seconds_max)), (at, speedup(point.seconds_min))]);
            let _ = writeln!(svg, "<circle class=\"{name}\" cx=\"{at:.1}\" cy=\"{:.1}\" r=\"4\"/>", y(point.speedup));
        }
    }
    let mut entries = vec![("ideal".to_owned(), "ideal".to_owned())];
    for mode in report.modes() {
        let name = mode.name();
        entries.push((format!("{name} line"), format!("{name}, median (bar: fastest to slowest)")));
        entries.push((format!("{name} ceiling"), "ceiling".into()));
        entries.push((format!("{name} predicted"), "predicted".into()));
    }
    for (row, (class, name)) in (0_u16..).zip(&entries) {
        let at = top + 12.0 + 18.0 * f64::from(row);
        line(svg, class, &[(left + 12.0, at), (left + 42.0, at)]);
        text(svg, left + 50.0, at + 4.0, "start", "", name);
    }
}

/// A bar for each lane count and way to scale, cut by phase.
fn bars(svg: &mut String, report: &Report) {
    let [left, top, right, bottom] = BARS;
    text(svg, left, top - 22.0, "start", "title", "where a lane's step goes");
    for percent in [0.0, 25.0, 50.0, 75.0, 100.0] {
        let at = bottom - (bottom - top) * percent / 100.0;
        line(svg, "grid", &[(left, at), (right - LEGEND, at)]);
        text(svg, left - 8.0, at + 4.0, "end", "", &format!("{percent} %"));
    }
    let width = (right - LEGEND - left) / super::count(report.points.len().max(1));
    for (index, point) in (0_u16..).zip(&report.points) {
        let at = left + width * (f64::from(index) + 0.15);
        let mut upto = bottom;
        for (class, share) in parts(point) {
            let height = (bottom - top) * share;
            upto -= height;
            let _ = writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{at:.1}\" y=\"{upto:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
                0.7 * width
            );
        }
        text(svg, at + 0.35 * width, bottom + 18.0, "middle", "", &point.lanes.to_string());
        let name = if point.mode == Mode::Weak { "weak" } else { "strong" };
        text(svg, at + 0.35 * width, bottom + 38.0, "middle", "", name);
    }
    let entries = PHASES.iter().map(|(class, _, name)| (*class, *name)).chain([("other", "other")]);
    for (row, (class, name)) in (0_u16..).zip(entries) {
        let at = top + 12.0 + 18.0 * f64::from(row);
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\"/>",
            right - LEGEND + 12.0,
            at - 6.0
        );
        text(svg, right - LEGEND + 28.0, at + 4.0, "start", "", name);
    }
}

/// Shares of the phases that are told apart, and of all others; they add up to one.
fn parts(point: &Point) -> Vec<(&'static str, f64)> {
    let share = |names: &[&str]| names.iter().filter_map(|name| point.phases.get(*name)).sum::<f64>();
    let mut parts: Vec<(&str, f64)> = PHASES.iter().map(|(class, names, _)| (*class, share(names))).collect();
    let rest = 1.0 - parts.iter().map(|(_, share)| share).sum::<f64>();
    parts.push(("other", rest.clamp(0.0, 1.0)));
    parts
}

/// At most about eight whole numbers up to `most`.
fn ticks(most: f64) -> Vec<f64> {
    let mut step = 1.0;
    while most / step > 8.0 {
        step *= 2.0;
    }
    std::iter::successors(Some(0.0), |tick| Some(tick + step)).take_while(|tick| *tick <= most).collect()
}

fn line(svg: &mut String, class: &str, points: &[(f64, f64)]) {
    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, class: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{}</text>",
        escaped(words)
    );
}

/// Text between elements.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
