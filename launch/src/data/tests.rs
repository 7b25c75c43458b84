//! What the loader accepts, and what it says about what it refuses.

use proptest::prelude::*;
use shared::config::{BuiltIn, Header, TaskChoice};
use shared::fixed::FixedPoint;
use shared::share::join;
use shared::wire::{DataShare, ToParty};

use super::*;

fn from(text: &str, change: impl FnOnce(&mut DataSection)) -> Result<Dataset, DataError> {
    let mut section = DataSection { file: Some("t.csv".into()), label: Some("y".into()), ..DataSection::default() };
    change(&mut section);
    parse("t.csv", text.as_bytes(), &section, &ProtocolSpec::default())
}

fn refused(text: &str) -> String {
    from(text, |_| {}).unwrap_err().to_string()
}

/// Ten rows of one numeric column; row `at` replaced.
fn with_row(at: usize, row: &str) -> String {
    let rows = (0..10).map(|i| if i == at { row.to_owned() } else { format!("{i}.5,{}", i % 2) });
    format!("a,y\n{}\n", rows.collect::<Vec<_>>().join("\n"))
}

#[test]
fn breast_cancer_splits_455_to_114_with_malignant_positive() {
    let data = load(&DataSection::default(), &ProtocolSpec::default()).unwrap();
    assert_eq!((data.task, data.features.len()), (Task::Binary, 30));
    assert_eq!((data.train.count, data.test.count), (455, 114));
    assert_eq!(data.classes, ["benign", "malignant"]);
    let malignant = |rows: &Rows| rows.y.iter().filter(|&&y| y == 1.0).count();
    assert_eq!((malignant(&data.train), malignant(&data.test)), (170, 42));
    for column in 0..30 {
        let values: Vec<f64> = data.train.x.iter().skip(column).step_by(30).copied().collect();
        let (mean, deviation) = columns::moments(&values);
        assert!(mean.abs() < 1e-9 && (deviation - 1.0).abs() < 1e-9, "column {column}: {mean} {deviation}");
    }
}

#[test]
fn digits_split_1437_to_360_one_hot() {
    let data = load(&DataSection { set: BuiltIn::Digits, ..DataSection::default() }, &ProtocolSpec::default()).unwrap();
    assert_eq!((data.task, data.features.len(), data.outputs()), (Task::Multiclass, 64, 10));
    assert_eq!((data.train.count, data.test.count), (1437, 360));
    assert!(data.train.y.chunks(10).all(|row| row.iter().sum::<f64>() == 1.0));
}

#[test]
fn the_split_depends_on_the_seed_alone() {
    let of = |seed| load(&DataSection { seed, ..DataSection::default() }, &ProtocolSpec::default()).unwrap();
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

#[test]
fn columns_may_be_numeric_categorical_or_missing() {
    let text = "age,sex,y\n30,f,no\n40,m,yes\n,f,no\n50,?,yes\n60,m,no\n20,f,yes\n";
    let data = from(text, |_| {}).unwrap();
    assert_eq!(data.features, ["age", "sex=(missing)", "sex=f", "sex=m"]);
    assert_eq!(data.missing, [("age".to_owned(), 1), ("sex".to_owned(), 1)]);
    assert_eq!(data.classes, ["no", "yes"]);
    assert!(data.train.x.iter().chain(&data.test.x).all(|value| value.is_finite()));
    let refused = from(text, |section| section.missing = Missing::Refuse).unwrap_err().to_string();
    assert_eq!(refused, "t.csv, line 4, column \"age\": the value is missing, and data.missing is \"refuse\"");
}

#[test]
fn a_header_is_detected() {
    let without = "1,2,a\n3,4,b\n5,6,a\n7,8,b\n9,1,a\n2,3,b\n";
    let data = from(without, |section| section.label = Some("3".into())).unwrap();
    assert_eq!(data.features, ["column 1", "column 2"]);
    assert_eq!(data.train.count + data.test.count, 6);
    let texts = "sex,y\nf,no\nm,yes\nf,no\nm,yes\n";
    assert_eq!(from(texts, |_| {}).unwrap().features, ["sex=f", "sex=m"]);
    assert_eq!(from(texts, |section| section.header = Header::Yes).unwrap().train.count, 3);
}

#[test]
fn the_task_follows_the_target_column() {
    let rows = |target: fn(u32) -> String| {
        let rows: String = (0..40).map(|i| format!("{i},{}\n", target(i))).collect();
        from(&format!("a,y\n{rows}"), |_| {}).unwrap()
    };
    assert_eq!(rows(|i| (i % 2).to_string()).task, Task::Binary);
    assert_eq!(rows(|i| (i % 3).to_string()).task, Task::Multiclass);
    let regression = rows(|i| format!("{}", f64::from(i) * 1e6 + 0.5));
    assert_eq!(regression.task, Task::Regression);
    assert!(regression.train.y.iter().all(|y| y.abs() < 3.0) && regression.target_scale > 1e6);
    let classes = from("a,y\n1,x\n2,y\n3,z\n4,x\n", |section| section.task = TaskChoice::Binary).unwrap_err();
    assert_eq!(classes.to_string(), "t.csv, target column \"y\": 3 classes; --task binary needs exactly 2");
}

#[test]
fn the_positive_class_can_be_named() {
    let text = "a,y\n1,sick\n2,well\n3,sick\n4,well\n5,sick\n6,well\n";
    let data = from(text, |section| section.positive = Some("sick".into())).unwrap();
    assert_eq!(data.classes, ["well", "sick"]);
    let error = from(text, |section| section.positive = Some("ill".into())).unwrap_err().to_string();
    assert_eq!(error, "data.positive = \"ill\" is no class of column \"y\": sick, well");
}

#[test]
fn bad_input_is_refused_by_line_and_column() {
    assert_eq!(refused(&with_row(4, "1,2,3")), "t.csv, line 6: 3 cells where the first row has 2");
    let text = refused(&with_row(2, "high,1"));
    assert!(text.starts_with("t.csv, line 4, column \"a\": \"high\" is not a number"), "{text}");
    for cell in ["inf", "-inf", "1e400", "Infinity"] {
        let text = refused(&with_row(2, &format!("{cell},1")));
        assert_eq!(text, format!("t.csv, line 4, column \"a\": {cell:?} is not a finite number"));
    }
    assert_eq!(from(&with_row(2, "NaN,1"), |_| {}).unwrap().missing, [("a".to_owned(), 1)]);
    let text = refused(&with_row(3, "1,"));
    assert!(text.starts_with("t.csv, line 5: the target column \"y\" is empty"), "{text}");
    assert_eq!(refused(""), "t.csv holds no records");
    assert_eq!(refused("a,y\n"), "t.csv holds no records");
    let text = refused("a,y\n1,0\n2,0\n3,0\n");
    assert_eq!(text, "t.csv, target column \"y\": every row is \"0\"; training needs at least two classes");
    let text = refused("a,b\n1,0\n2,1\n");
    assert_eq!(text, "t.csv has no column \"y\"; the columns are: a, b");
    assert_eq!(refused("y\n1\n0\n1\n0\n"), "t.csv has no column besides the target");
    let text = refused("a,y\n1,0\n2,1\n");
    assert_eq!(text, "t.csv: 2 rows cannot be split into training and test rows with two classes to learn from");
    let names: String = (0..100).map(|i| format!("name{i}x,{}\n", i % 2)).collect();
    assert!(refused(&format!("a,y\n{names}")).contains("look like an identifier"));
}

#[test]
fn a_value_too_large_even_after_standardisation_is_refused() {
    // Training rows lie close together and one test row far away.
    let of = |far: usize| {
        let rows = (0..10).map(|i| if i == far { format!("1e9,{}", i % 2) } else { format!("0.{i},{}", i % 2) });
        from(&format!("a,y\n{}\n", rows.collect::<Vec<_>>().join("\n")), |_| {})
    };
    let errors: Vec<String> = (0..10).filter_map(|far| of(far).err()).map(|error| error.to_string()).collect();
    assert_eq!(errors.len(), 2, "each of the two test rows once: {errors:?}");
    assert!(errors[0].contains("column \"a\": even after standardisation the value's magnitude is too large"));
}

#[test]
fn more_fraction_bits_leave_less_room_for_values() {
    // When both far rows are test rows, they lie thousands of standard deviations away.
    let protocol = |bits, compare_bits| ProtocolSpec {
        fraction_bits: FixedPoint::new(bits).unwrap(),
        compare_bits,
        ..ProtocolSpec::default()
    };
    let rows: String = (0..20).map(|i| format!("0.{i},{}\n", i % 2)).collect();
    let text = format!("a,y\n{rows}1e3,0\n1e3,1\n");
    let errors = |protocol: &ProtocolSpec| -> Vec<String> {
        let of = |seed| {
            let section = DataSection { label: Some("y".into()), seed, ..DataSection::default() };
            parse("t.csv", text.as_bytes(), &section, protocol).err()
        };
        (0..60).filter_map(of).map(|error| error.to_string()).collect()
    };
    assert_eq!(errors(&protocol(16, 32)), [""; 0]);
    assert_eq!(errors(&protocol(20, 64)), [""; 0]);
    let refused = errors(&protocol(20, 32));
    assert!(!refused.is_empty(), "some split tests on both rows");
    for error in refused {
        assert!(error.contains("within +-1024;") && error.contains("protocol.compare_bits = 64"), "{error}");
    }
}

#[test]
fn as_many_classes_as_a_softmax_can_tell_apart() {
    let of = |classes: usize| {
        let rows: String = (0..4 * classes).map(|i| format!("{i},c{}\n", i % classes)).collect();
        from(&format!("a,y\n{rows}"), |_| {}).map(|data| data.outputs())
    };
    assert_eq!(of(128).unwrap(), 128);
    let error = of(129).unwrap_err().to_string();
    assert_eq!(error, "t.csv, target column \"y\": 129 classes; --task multiclass needs at most 128");
}

#[test]
fn shares_join_to_the_encoded_data() {
    let data = load(&DataSection::default(), &ProtocolSpec::default()).unwrap();
    let fixed = FixedPoint::DEFAULT;
    let encoded = encode(&data, None, fixed).unwrap();
    let shares = encoded.messages.map(|message| match message {
        ToParty::Data(share) => match *share {
            DataShare::Training(share) => share.train_x.into_share(455 * 30).unwrap(),
            DataShare::Inference(_) => unreachable!("it trains"),
        },
        _ => unreachable!("data was asked for"),
    });
    let words = join(&shares).unwrap();
    assert!(words.iter().zip(&data.train.x).all(|(&word, x)| (fixed.decode(word) - x).abs() <= 0.5 / fixed.scale()));
}

proptest! {
    #[test]
    fn any_bytes_give_a_data_set_or_an_error(bytes: Vec<u8>) {
        let section = DataSection { label: Some("1".into()), ..DataSection::default() };
        let _ = parse("t.csv", &bytes, &section, &ProtocolSpec::default());
    }

    #[test]
    fn what_looks_like_a_table_gives_finite_numbers_or_an_error(text in "([yx0-9.,?e+-]{0,6},[ab0-9]{0,2}\n){2,40}") {
        let section = DataSection { label: Some("2".into()), ..DataSection::default() };
        if let Ok(data) = parse("t.csv", text.as_bytes(), &section, &ProtocolSpec::default()) {
            for rows in [&data.train, &data.test] {
                prop_assert_eq!(rows.x.len(), rows.count * data.features.len());
                prop_assert_eq!(rows.y.len(), rows.count * data.outputs());
                prop_assert!(rows.x.iter().chain(&rows.y).all(|value| value.is_finite()));
            }
        }
    }
}
