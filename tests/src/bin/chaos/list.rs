//! Which tests there are, what they are called, where they stand.

use crate::elsewhere::{Place, Tests};
use crate::trial::Trial;
use crate::{acks, clock, disk, guests, host, links, names, oversize, peers, sinks, soak, tls};

/// How a test is run.
#[derive(Debug)]
pub(crate) enum Means {
    /// A scenario of this program.
    Here(fn(&mut Trial)),
    /// Unit tests of the host or end-to-end tests.
    Elsewhere(&'static [Tests]),
    /// Not at all, for this reason.
    Impossible(&'static str),
}

/// A test of reliability.
#[derive(Debug)]
pub(crate) struct Test {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Whether tests/run runs its short form.
    pub(crate) in_run: bool,
    pub(crate) means: Means,
}

const fn here(name: &'static str, title: &'static str, scenario: fn(&mut Trial)) -> Test {
    Test {
        name,
        title,
        in_run: false,
        means: Means::Here(scenario),
    }
}

const fn in_run(mut test: Test) -> Test {
    test.in_run = true;
    test
}

const fn elsewhere(name: &'static str, title: &'static str, tests: &'static [Tests]) -> Test {
    Test {
        name,
        title,
        in_run: false,
        means: Means::Elsewhere(tests),
    }
}

/// All of them, in their order.
pub(crate) const TESTS: &[Test] = &[
    in_run(here("R1", "the broker's connection is cut", links::cuts)),
    in_run(here("R2", "the broker is killed", links::broker_killed)),
    here("R3", "the broker refuses", peers::refused),
    elsewhere(
        "R4",
        "200 connections come back at once",
        &[Tests {
            place: Place::E2e,
            names: &["storm::two_hundred_connections_come_back_spread_out_and_soon"],
            what: "200 named connections to one broker that goes away and comes back",
        }],
    ),
    in_run(here("R5", "half-open TCP", links::half_open)),
    here("R6", "peers that dawdle", peers::dawdlers),
    elsewhere(
        "R7",
        "malformed requests to the API",
        &[Tests {
            place: Place::E2e,
            names: &[
                "serve_attacks::malformed_requests_change_nothing_and_nobody_notices_them",
                "serve_attacks::bodies_over_the_limit_and_slow_or_silent_clients_do_not_hold_up_others",
            ],
            what: "requests made from the API's own description and against it, raw bytes, floods; the state before and after",
        }],
    ),
    elsewhere(
        "R8",
        "many clients at the API",
        &[Tests {
            place: Place::E2e,
            names: &["serve_changes::many_clients_at_once_leave_nothing_behind"],
            what: "many clients that create, change, delete, start and stop the same few things",
        }],
    ),
    in_run(here("R9", "connectors that trap", guests::traps)),
    here("R10", "connectors that loop forever", guests::loops),
    in_run(here(
        "R11",
        "connectors that take all they can",
        guests::allocations,
    )),
    here(
        "R11b",
        "what connectors piled up goes back",
        guests::given_back,
    ),
    here("R12", "a connector that leaks", guests::leaks),
    in_run(here("R13", "a connector that lies", guests::lies)),
    here("R14", "a slow sink", sinks::slow),
    elsewhere(
        "R15",
        "a sink that fails",
        &[Tests {
            place: Place::E2e,
            names: &[
                "http_faults::of_a_server_that_fails_a_third_of_all_requests_every_message_is_taken_or_a_dead_letter",
            ],
            what: "an HTTP server that answers 500, 429 with Retry-After, 422 and resets",
        }],
    ),
    elsewhere(
        "R16",
        "the circuit breaker",
        &[Tests {
            place: Place::E2e,
            names: &[
                "http_faults::a_server_that_fails_for_a_while_is_left_alone_and_the_circuit_is_shown",
            ],
            what: "an HTTP server that answers nothing but 503 for a while",
        }],
    ),
    here("R17", "the disk is full", disk::full),
    in_run(here("R18", "the host is killed", host::killed)),
    in_run(here("R19", "a disk queue is damaged", disk::damaged)),
    elsewhere(
        "R20",
        "writes that are lost or reordered",
        &[Tests {
            place: Place::Lib,
            names: &[
                "rules::spill::tests::power::nothing_acknowledged_is_missing_after_500_random_power_failures",
                "rules::spill::tests::power::a_full_disk_refuses_whole_batches_and_takes_again_when_there_is_room",
                "rules::spill::tests::power::a_file_whose_sync_failed_is_never_written_to_again",
            ],
            what: "the storage layer of the disk queue drops and reorders what was not synced, in 500 schedules",
        }],
    ),
    here("R21", "the clock jumps", clock::jumps),
    here(
        "R22",
        "certificates that are not what they were",
        tls::certificates,
    ),
    here("R23", "names that lead nowhere", names::names),
    in_run(here(
        "R24",
        "messages that are too large",
        oversize::oversize,
    )),
    in_run(here(
        "R24b",
        "a broker that hangs up on a large message",
        oversize::hangs_up,
    )),
    in_run(here(
        "R25",
        "acknowledgements out of order",
        acks::out_of_order,
    )),
    elsewhere(
        "R26",
        "one of many on a connection is in trouble",
        &[Tests {
            place: Place::E2e,
            names: &[
                "dead_sink::a_dead_sink_does_not_slow_its_neighbour_and_all_its_messages_arrive_in_order_afterwards",
                "dead_sink::a_sink_whose_broker_falls_silent_does_not_slow_its_neighbour",
            ],
            what: "two rules on one connection, the sink of one is dead, then silent",
        }],
    ),
    elsewhere(
        "R27",
        "changes under load",
        &[Tests {
            place: Place::E2e,
            names: &[
                "serve_changes::rules_streams_and_connections_change_under_load_and_no_message_is_missed",
                "serve_changes::rules_that_share_a_source_change_under_load_and_neither_misses_a_message",
                "serve_changes::a_connector_is_replaced_under_a_running_rule_and_no_message_is_missed",
            ],
            what: "rules, streams, connections and connectors are changed at 1000 messages/s",
        }],
    ),
    here("R28", "every order of starting", host::start_order),
    here("R29", "hardly any handles", host::handles),
    here("R30", "everything at once, for long", soak::soak),
    in_run(here("R31", "one message at a time", host::one_at_a_time)),
    elsewhere(
        "R32",
        "nng peers",
        &[Tests {
            place: Place::E2e,
            names: &[
                "nng::neuron_that_is_away_comes_back_and_both_rules_and_the_writes_go_on",
                "nng::a_listener_that_restarts_again_and_again_is_found_each_time",
                "nng::every_peer_that_is_none_is_named_and_none_is_hammered",
            ],
            what: "listeners that restart, a second dialler, wrong protocols, large messages, silence",
        }],
    ),
    Test {
        name: "R33",
        title: "quotas of tenants",
        in_run: false,
        means: Means::Impossible("there are no tenants yet: the only one is `default`"),
    },
    in_run(here("R34", "SIGTERM under load", host::stops)),
];

/// Prints them.
pub(crate) fn print() {
    for test in TESTS {
        let (mark, place) = match &test.means {
            Means::Here(_) if test.in_run => ("*", String::new()),
            Means::Here(_) => (" ", String::new()),
            Means::Elsewhere(tests) => {
                let places: Vec<&str> = tests
                    .iter()
                    .map(|tests| match tests.place {
                        Place::Lib => "unit tests",
                        Place::E2e => "end-to-end tests",
                    })
                    .collect();
                (" ", format!(" ({})", places.join(", ")))
            }
            Means::Impossible(reason) => (" ", format!(" (not possible: {reason})")),
        };
        println!("{mark} {:<4} {}{place}", test.name, test.title);
    }
    println!("\n* tests/run runs its short form");
}
