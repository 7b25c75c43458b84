//! The report's figures, its schema, and what it looks like.

use shared::telemetry;
use shared::wire::PartyReport;

use super::*;

/// Steps of 40 to 48 ms on one lane; more lanes take a fifth longer for each.
fn runs(lanes: u16, per_lane_bytes: u64) -> Runs {
    let slower = 1.0 + 0.2 * f64::from(lanes - 1);
    let party = PartyReport {
        device: "cpu (test & <trial>)".into(),
        step_seconds: vec![0.040 * slower, 0.048 * slower, 0.044 * slower],
        sent_bytes: 3 * u64::from(lanes) * per_lane_bytes,
        rounds: 153,
        phase_seconds: vec![
            ("compute".into(), 0.004),
            ("truncate".into(), 0.001),
            ("open_send".into(), 0.001),
            ("open_wait".into(), 0.004),
        ],
        peer_rtt_seconds: 5e-3,
        peak_rss_bytes: 1000,
        ..PartyReport::default()
    };
    Runs(vec![Completed { reports: [party.clone(), party.clone(), party], startup_seconds: 0.02, result: None }])
}

fn args() -> ScalingArgs {
    ScalingArgs {
        gpus: vec![1, 4],
        weak: false,
        strong: false,
        workload: ScalingWorkload::W2,
        net: Some("1gbit,5ms".parse().unwrap()),
        threads: 1,
        runs: None,
        repeat: 1,
        set: Vec::new(),
        output: vec![ScalingOutput::Json],
        out: None,
        verbose: false,
        party_program: None,
    }
}

fn scaling(args: &ScalingArgs) -> Scaling<'_> {
    Scaling {
        args,
        workload: Workload::W2,
        name: "w2",
        job: on_images(&JobFile::default(), Workload::W2).0,
        most: 4,
        threads: 1,
        cores: 64,
        interrupt: Interrupt::default(),
        calibration: Calibration::shipped("cpu").unwrap(),
    }
}

fn report() -> Report {
    let args = args();
    let scaling = scaling(&args);
    let (one, four) = (runs(1, 3_198_831), runs(4, 2_063_973));
    let mut points = Vec::new();
    for mode in [Mode::Weak, Mode::Strong] {
        points.push(scaling.point(mode, 1, &one, &one).unwrap());
        points.push(scaling.point(mode, 4, &one, &four).unwrap());
    }
    Report {
        schema: SCHEMA,
        version: PROTOCOL_VERSION,
        workload: "w2",
        parties: 3,
        device: "cpu (test & <trial>)".into(),
        threads: 1,
        cores: 2,
        batch: 128,
        network: NetworkUsed { round_trip_seconds: 5e-3, bandwidth_bits_per_second: Some(1e9), loss: Some(0.0) },
        points,
        remarks: vec!["no GPU found".into()],
    }
}

#[test]
fn speedups_are_of_samples_per_second() {
    let report = report();
    let [weak_one, weak, strong_one, strong] = &report.points[..] else { panic!("four points") };
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
    close(weak_one.speedup, 1.0);
    close(strong_one.seconds, 0.044);
    close(weak.speedup, 4.0 / 1.6);
    close(strong.speedup, 1.0 / 1.6);
    close(weak.efficiency, 1.0 / 1.6);
    close(weak.samples_per_second, 512.0 / (1.6 * 0.044));
    close(weak.network_share, 0.5);
    assert_eq!((weak.batch, strong.batch, weak.runs), (512, 128, 3));
    // The bytes that the dry run counts are those that were sent.
    assert!((weak.bytes_predicted / weak.bytes_sent_per_party - 1.0).abs() < 0.01, "{weak:?}");
    for point in &report.points {
        assert!(point.speedup_ceiling > 0.0 && point.speedup_predicted > 0.0, "{point:?}");
    }
    close(weak_one.speedup_ceiling, 1.0);
    // The measured step of one lane is shorter than what the link takes for four: the link is the ceiling.
    let (link, sum) = (weak.bytes_predicted * 8.0 / 1e9, weak.seconds_least - weak.bytes_predicted * 8.0 / 1e9);
    assert!(link > weak_one.seconds && sum > 0.0 && sum < 0.005, "{weak:?}");
}

/// Every key of the report stands in docs/formats.md, and every key there is one of the report.
#[test]
fn the_json_report_has_the_documented_keys() {
    let value: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
    let documented = include_str!("../../../../docs/formats.md");
    let section = documented.split("## Scaling report").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut expected: Vec<&str> =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let mut found = Vec::new();
    for (key, value) in value.as_object().unwrap() {
        match (key.as_str(), value) {
            ("points", serde_json::Value::Array(points)) => {
                found.extend(points[0].as_object().unwrap().keys().map(|key| format!("points.{key}")));
            }
            ("network", serde_json::Value::Object(network)) => {
                found.extend(network.keys().map(|key| format!("network.{key}")));
            }
            _ => found.push(key.clone()),
        }
    }
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(value["schema"], SCHEMA);
    assert_eq!(value["points"][1]["mode"], "weak");
}

/// Tags open and close in order, attributes are quoted, and no text is left with a character of markup.
fn assert_well_formed(svg: &str) {
    let mut open: Vec<String> = Vec::new();
    let mut rest = svg;
    while let Some((text, tail)) = rest.split_once('<') {
        assert!(!text.contains('>'), "{text:?}");
        for (at, _) in text.match_indices('&') {
            let known = ["&amp;", "&lt;", "&gt;"].iter().any(|entity| text[at..].starts_with(entity));
            assert!(known, "{text:?}");
        }
        let (tag, after) = tail.split_once('>').expect("a tag ends");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag:?}");
        assert!(!tag.contains('<'), "{tag:?}");
        match (tag.strip_prefix('/'), tag.strip_suffix('/')) {
            (Some(name), _) => assert_eq!(open.pop().as_deref(), Some(name)),
            (None, Some(_)) => {}
            (None, None) => open.push(tag.split_whitespace().next().unwrap().into()),
        }
        rest = after;
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest:?}");
}

#[test]
fn the_chart_is_well_formed_and_says_what_it_shows() {
    let svg = chart::svg(&report());
    assert_well_formed(&svg);
    assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
    assert!(
        svg.contains("<title id=\"title\">Scaling of w2: 3 parties, cpu (test &amp; &lt;trial&gt;)</title>"),
        "{svg}"
    );
    assert!(svg.contains("<desc id=\"desc\">weak scaling, lanes 1: step 44.00 ms, speed-up 1.00 of 1"), "{svg}");
    assert!(svg.contains("prefers-color-scheme:dark") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    assert!(!svg.contains("href") && !svg.contains("url("), "it loads nothing");
    // A bar for each point, cut into six.
    assert_eq!(svg.matches("<rect class=").count(), 4 * 6 + 6);
    // Every coordinate lies within the picture.
    for points in svg.split("points=\"").skip(1) {
        for point in points.split('"').next().unwrap().split(' ') {
            let (x, y) = point.split_once(',').unwrap();
            assert!(
                (0.0..=960.0).contains(&x.parse().unwrap()) && (0.0..=420.0).contains(&y.parse().unwrap()),
                "{point}"
            );
        }
    }
}

#[test]
fn metrics_have_the_names_of_the_table_and_the_numbers_of_the_report() {
    let report = report();
    let page = prometheus::page(&report);
    for metric in telemetry::SCALING {
        let samples = page.lines().filter(|line| line.starts_with(&format!("{}{{", metric.name))).count();
        let each = if metric.labels.contains(&"phase") { report.points[0].phase_seconds.len() } else { 1 };
        assert_eq!(samples, each * report.points.len(), "{}", metric.name);
        assert!(page.contains(&format!("# TYPE {} gauge", metric.name)));
    }
    let speedup = report.points[1].speedup;
    let line = format!("mpc_scaling_speedup_ratio{{workload=\"w2\",mode=\"weak\",gpus=\"4\"}} {speedup}");
    assert!(page.lines().any(|found| found == line), "{page}");
}

#[test]
fn the_text_has_a_row_for_each_point() {
    let text = text::text(&report());
    assert!(text.contains("weak scaling, a batch of 128 for each lane"), "{text}");
    assert!(text.contains("strong scaling, a batch of 128 for all lanes"), "{text}");
    assert_eq!(text.matches("70.40 ms").count(), 2, "{text}");
    assert!(text.contains("4 lanes               compute 40 %, send 10 %, wait 40 %, truncate 10 %"), "{text}");
}

#[test]
fn lane_counts_grow_from_one() {
    assert_eq!(lane_counts(&[1, 2, 4]).unwrap(), [1, 2, 4]);
    assert_eq!(lane_counts(&[4]).unwrap(), [1, 4]);
    let refused = |lanes: &[u16]| lane_counts(lanes).unwrap_err().to_string();
    assert_eq!(refused(&[0]), "--gpus 0: 0 is out of range: 1 to 64 lanes (GPUs) per party");
    assert_eq!(refused(&[1, 4, 2]), "--gpus 1,4,2: the counts must grow, as in 1,2,4");
    assert!(refused(&[2, 2]).contains("must grow"));
    assert!(refused(&[1, 65]).contains("65 is out of range"));
}
