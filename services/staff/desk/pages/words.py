"""The words of the desk, beside the words of programs, and the keys."""

from pydantic import BaseModel

from services.staff.desk.routing import Room

room = Room(__name__)


class Word(BaseModel):
    """A word as the desk shows it, the words of programs for it, and what it means."""

    shown: str
    programs: list[str]
    meaning: str


class Key(BaseModel):
    """Keys, pressed one after the other, and what they do."""

    keys: list[str]
    does: str


class WordsView(BaseModel):
    """The glossary and the keys."""

    words: list[Word]
    keys: list[Key]


@room.page("/words", "words.html")
async def words() -> WordsView:
    """The words, as a team needs them, and the keys."""
    return WordsView(words=list(WORDS), keys=list(KEYS))


WORDS = (
    Word(
        shown="money in doubt",
        programs=["in_doubt", "needs_decision", "refund_in_doubt"],
        meaning="Nobody knows whether the card was charged, or whether the money went back.",
    ),
    Word(shown="case", programs=["cases"], meaning="A payment that a person may have to settle."),
    Word(
        shown="gateway is being asked",
        programs=["in_doubt"],
        meaning="Remit asks the gateway what became of it, ever more rarely. Nothing to do yet.",
    ),
    Word(
        shown="needs a decision",
        programs=["needs_decision"],
        meaning="The gateway could not tell: a person looks there and decides.",
    ),
    Word(shown="refund unclear", programs=["refund_in_doubt"], meaning="Nobody knows whether the money went back."),
    Word(
        shown="refund refused",
        programs=["refund_failed"],
        meaning="The gateway did not give the money back. The customer still waits for it.",
    ),
    Word(
        shown="needs a second person",
        programs=["proposal, open"],
        meaning="Somebody decided, and above this amount another person has to agree. Nothing is sent before.",
    ),
    Word(
        shown="decision on its way",
        programs=["decision_on_its_way"],
        meaning="The decision was sent, and the service that carries it out has not answered yet.",
    ),
    Word(
        shown="decision waits",
        programs=["decision_on_its_way"],
        meaning="The decision was not sent yet, or no effect of it shows for 5 minutes: then it may be made anew. One takes effect.",
    ),
    Word(
        shown="contradicted",
        programs=["late"],
        meaning="The gateway says something else than a person decided. The money is safe; somebody takes note.",
    ),
    Word(shown="charged", programs=["captured"], meaning="The card was charged, and the gateway has a receipt."),
    Word(shown="not charged", programs=["not_charged"], meaning="The card was not charged, and will not be."),
    Word(shown="declined by the bank", programs=["declined"], meaning="The bank said no. Nothing was charged."),
    Word(shown="given back", programs=["refunded"], meaning="The money went back to the card."),
    Word(shown="kept", programs=["not_refunded"], meaning="The money was not given back, and stays with us."),
    Word(
        shown="failed message",
        programs=["dead letter"],
        meaning="A service could not handle it and set it aside: nothing of it was done. One that the broker set aside may have been "
        "handled; a replay is recognised then, and its page says so.",
    ),
    Word(
        shown="replay",
        programs=["replay"],
        meaning="Send it again, to the queue on which it failed and under its own id.",
    ),
    Word(shown="run", programs=["replay_runs"], meaning="A replay of many messages, of which each is sent once."),
    Word(shown="try one", programs=["canary"], meaning="The first message of a run, which is waited for."),
    Word(
        shown="discard",
        programs=["discard"],
        meaning="Give it up. The sender of a command is answered that it was rejected.",
    ),
    Word(shown="handled", programs=["handled"], meaning="A replayed message was handled as if it had never failed."),
    Word(
        shown="answered with a refusal",
        programs=["rejected"],
        meaning="A replayed command was handled, and its sender was told no.",
    ),
    Word(
        shown="failed again",
        programs=["dead letter of the next generation"],
        meaning="A replayed message could not be handled once more, and is a failed message again.",
    ),
    Word(
        shown="no sign", programs=["nothing heard for 60 s"], meaning="A replayed message may still wait in its queue."
    ),
    Word(
        shown="stuck",
        programs=["overdue"],
        meaning="Something that moves by itself does not. The page says what it means for money, and what to do.",
    ),
    Word(shown="story", programs=["messages"], meaning="What happened to an invoice, step by step, and why."),
    Word(
        shown="activity log",
        programs=["journal"],
        meaning="Who did what, when and why. Nobody can change it without that being seen.",
    ),
    Word(
        shown="seal",
        programs=["head of the hash chain"],
        meaning="A copy of where the log ended, kept elsewhere. It shows if the end of the log was cut off.",
    ),
    Word(
        shown="ask, prepare, charge, cancel, give back",
        programs=["inquire", "prepare", "execute", "cancel", "refund"],
        meaning="What Remit asks of the gateway.",
    ),
)

KEYS = (
    Key(keys=["/"], does="go to the field in which to find something"),
    Key(keys=["?"], does="this page"),
    Key(keys=["g", "o"], does="overview"),
    Key(keys=["g", "c"], does="cases"),
    Key(keys=["g", "m"], does="failed messages"),
    Key(keys=["g", "r"], does="replays"),
    Key(keys=["g", "s"], does="what is stuck"),
    Key(keys=["g", "a"], does="activity log"),
    Key(keys=["j"], does="next row of a list"),
    Key(keys=["k"], does="row before"),
    Key(keys=["x"], does="select the row, or not"),
    Key(keys=["Enter"], does="open the row"),
)
