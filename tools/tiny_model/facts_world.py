"""Facts about the world, as relations from a subject to an object.

A ``Relation`` is a table with the ways to ask for it and to answer; ``WORLD`` is all of them.
The texts are written for this project. Main names: ``Relation``, ``pairs``, ``WORLD``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """A table of facts with its phrasings; ``{s}`` is the subject, ``{o}`` the object."""

    name: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    items: dict[str, str]
    follow: str = "{s}"
    """How the subject is named in a follow-up such as "And what about {s}?"."""


def pairs(text: str) -> dict[str, str]:
    """Read ``a: b; c: d`` into a dictionary; newlines count as spaces."""
    rows = (row.split(":", 1) for row in " ".join(text.split()).split(";") if row.strip())
    return {key.strip(): value.strip() for key, value in rows}


def words(text: str) -> tuple[str, ...]:
    """Split a text into its words."""
    return tuple(text.split())


def a(noun: str) -> str:
    """Return the noun with its indefinite article."""
    an = noun[0] in "aeiou" and not noun.startswith(("uni", "use", "eu"))
    return f"{'an' if an else 'a'} {noun}"


CAPITALS = pairs("""France: Paris; Spain: Madrid; Italy: Rome; Germany: Berlin; Portugal: Lisbon;
England: London; Ireland: Dublin; Scotland: Edinburgh; Norway: Oslo; Sweden: Stockholm;
Finland: Helsinki; Denmark: Copenhagen; Iceland: Reykjavik; Poland: Warsaw; Austria: Vienna;
Hungary: Budapest; Greece: Athens; Turkey: Ankara; Russia: Moscow; Ukraine: Kyiv;
Belgium: Brussels; the Netherlands: Amsterdam; Switzerland: Bern; Romania: Bucharest;
Bulgaria: Sofia; Serbia: Belgrade; Croatia: Zagreb; Estonia: Tallinn; Latvia: Riga;
Lithuania: Vilnius; Egypt: Cairo; Kenya: Nairobi; Nigeria: Abuja; Ghana: Accra;
Morocco: Rabat; Ethiopia: Addis Ababa; Senegal: Dakar; Tunisia: Tunis; Uganda: Kampala;
Japan: Tokyo; China: Beijing; India: New Delhi; South Korea: Seoul; Thailand: Bangkok;
Vietnam: Hanoi; Indonesia: Jakarta; Nepal: Kathmandu; Iran: Tehran; Iraq: Baghdad;
Lebanon: Beirut; the Philippines: Manila; Mongolia: Ulaanbaatar; Canada: Ottawa; Mexico: Mexico
City;
Cuba: Havana; the United States: Washington; Brazil: Brasilia; Argentina: Buenos Aires;
Chile: Santiago; Peru: Lima; Colombia: Bogota; Ecuador: Quito; Uruguay: Montevideo;
Venezuela: Caracas; Australia: Canberra; New Zealand: Wellington; Fiji: Suva; Jamaica: Kingston""")

CONTINENTS = {
    country: continent
    for continent, countries in pairs("""
    Europe: France,Spain,Italy,Germany,Portugal,England,Ireland,Scotland,Norway,Sweden,Finland,
    Denmark,Iceland,Poland,Austria,Hungary,Greece,Belgium,Switzerland,Romania,Croatia,the
    Netherlands;
    Africa: Egypt,Kenya,Nigeria,Ghana,Morocco,Ethiopia,Senegal,Tunisia,Uganda;
    Asia: Japan,China,India,South Korea,Thailand,Vietnam,Indonesia,Nepal,Iran,Iraq,Mongolia;
    North America: Canada,Mexico,the United States,Cuba;
    South America: Brazil,Argentina,Chile,Peru,Colombia,Ecuador,Uruguay""").items()
    for country in (name.strip() for name in countries.split(","))
}

LANGUAGES = pairs("""France: French; Spain: Spanish; Italy: Italian; Germany: German; Portugal:
Portuguese;
England: English; Norway: Norwegian; Sweden: Swedish; Finland: Finnish; Denmark: Danish;
Poland: Polish; Austria: German; Hungary: Hungarian; Greece: Greek; Turkey: Turkish;
Russia: Russian; Egypt: Arabic; Morocco: Arabic; Japan: Japanese; China: Chinese;
South Korea: Korean; Thailand: Thai; Vietnam: Vietnamese; Mexico: Spanish; Cuba: Spanish;
Brazil: Portuguese; Argentina: Spanish; Chile: Spanish; Peru: Spanish; Australia: English""")

COLOURS = pairs("""the sky: blue; grass: green; snow: white; coal: black; blood: red; a lemon:
yellow;
a banana: yellow; a strawberry: red; a tomato: red; a carrot: orange; an orange: orange;
the sun: yellow; milk: white; chocolate: brown; the sea: blue; a leaf: green; a frog: green;
a crow: black; a swan: white; a flamingo: pink; a pig: pink; a fire engine: red; gold: yellow;
silver: grey; an elephant: grey; a mouse: grey; a cucumber: green; a plum: purple;
an eggplant: purple; a cherry: red; salt: white; rice: white; sand: yellow; mud: brown; a rose: red;
night: black; a cloud: white; a pumpkin: orange; a fox: orange; a bear: brown; lettuce: green;
a pea: green; corn: yellow; honey: yellow; a lime: green; a polar bear: white; a raven: black;
a sunflower: yellow; coffee: brown; wood: brown; bread: brown; a violet: purple; a lobster: red;
paper: white; an emerald: green; a ruby: red; a sapphire: blue; butter: yellow; smoke: grey""")

SOUNDS = pairs("""dog: woof; cat: meow; cow: moo; sheep: baa; duck: quack; pig: oink; horse: neigh;
lion: roar;
frog: croak; bee: buzz; snake: hiss; owl: hoot; rooster: cock-a-doodle-doo; mouse: squeak;
crow: caw; goat: maa; wolf: howl; donkey: hee-haw; turkey: gobble; bird: tweet; bear: growl;
goose: honk; hen: cluck; pigeon: coo""")

BABIES = pairs("""dog: puppy; cat: kitten; cow: calf; sheep: lamb; duck: duckling; pig: piglet;
horse: foal;
lion: cub; frog: tadpole; goat: kid; bear: cub; wolf: pup; hen: chick; deer: fawn; goose: gosling;
kangaroo: joey; swan: cygnet; elephant: calf; tiger: cub; owl: owlet; whale: calf; fox: cub""")

HOMES = pairs("""bird: in a nest; bee: in a hive; fish: in water; bear: in a den; rabbit: in a
burrow; horse: in a stable;
dog: in a kennel; spider: in a web; ant: in an ant hill; lion: on the savanna; camel: in the desert;
penguin: on the ice; whale: in the sea; monkey: in trees; frog: near ponds; owl: in trees;
fox: in a den; cow: on a farm; pig: on a farm; shark: in the sea; beaver: in a lodge;
squirrel: in trees; mole: under the ground; crab: on the beach; polar bear: in the Arctic;
kangaroo: in Australia; panda: in China; tiger: in the jungle; goat: in the mountains""")

FOODS = pairs("""cow: grass; horse: hay; rabbit: carrots; monkey: bananas; lion: meat; cat: mice;
bird: seeds;
bear: fish and berries; panda: bamboo; squirrel: nuts; bee: nectar; frog: flies; sheep: grass;
koala: leaves; whale: krill; penguin: fish; wolf: meat; goat: grass; spider: insects; owl: mice;
shark: fish; giraffe: leaves; pig: almost anything; duck: plants and insects; tiger: meat; otter:
fish""")

LEGS = pairs("""dog: four; cat: four; cow: four; horse: four; bird: two; spider: eight; ant: six;
bee: six;
snake: no; fish: no; duck: two; sheep: four; crab: ten; lion: four; beetle: six; hen: two;
elephant: four; human: two; octopus: no; penguin: two; mouse: four; fly: six; frog: four""")

USES = pairs("""knife: cut food; spoon: eat soup; hammer: hit nails; saw: cut wood; pen: write;
brush: paint;
broom: sweep the floor; key: open a lock; clock: tell the time; lamp: light a room; oven: bake
bread;
kettle: boil water; umbrella: stay dry in the rain; needle: sew clothes; ladder: climb up high;
towel: dry yourself; soap: wash your hands; pillow: rest your head; cup: drink tea; fridge: keep
food cold;
map: find the way; ruler: measure length; scale: measure weight; telescope: look at the stars;
camera: take photos; phone: call people; comb: tidy your hair; shovel: dig a hole; rope: tie things;
candle: give light; bucket: carry water; scissors: cut paper; mirror: see yourself; boat: cross
water;
bell: make a ringing sound; bag: carry things; glove: keep a hand warm; bed: sleep; chair: sit;
book: read""")

JOBS = pairs("""baker: bakes bread; teacher: teaches children; doctor: helps sick people; farmer:
grows food;
pilot: flies planes; cook: makes meals; painter: paints pictures; writer: writes books;
singer: sings songs; tailor: makes clothes; fisher: catches fish; gardener: looks after plants;
nurse: cares for patients; driver: drives a car or a bus; carpenter: builds things from wood;
dentist: looks after teeth; vet: treats sick animals; judge: decides cases in court;
actor: plays roles on stage; plumber: repairs pipes; butcher: sells meat; sailor: works on a ship;
miner: digs for coal and metal; waiter: serves food; builder: builds houses; tinsmith: makes things
from tin;
librarian: looks after books; firefighter: puts out fires; postman: brings letters; scientist:
studies nature""")

MADE_OF = pairs("""window: glass; table: wood; coin: metal; book: paper; shirt: cotton; jumper:
wool; tyre: rubber;
bread: flour; cheese: milk; wall: brick; bottle: glass or plastic; candle: wax; shoe: leather;
nail: iron; ring: gold or silver; chocolate: cocoa; butter: milk; wine: grapes; omelette: eggs;
tin can: metal; rope: fibres; pot: clay or metal; newspaper: paper; chair: wood; knife: steel""")

TASTES = pairs("""a lemon: sour; sugar: sweet; ice: cold; fire: hot; a feather: light; a stone:
hard; a pillow: soft;
honey: sweet; salt: salty; coffee: bitter; silk: smooth; sand: rough; water: wet; a desert: dry;
glass: hard; wool: warm; a knife: sharp; a turtle: slow; a rabbit: fast; a mountain: high;
an ocean: deep; a mouse: small; an elephant: big; steel: strong; a candle: bright; thunder: loud;
a whisper: quiet; chilli: spicy; the moon: far away; a giraffe: tall; lead: heavy; soup: hot""")

AUTHORS = pairs("""Hamlet: William Shakespeare; Romeo and Juliet: William Shakespeare; Oliver Twist:
Charles Dickens;
Pride and Prejudice: Jane Austen; Don Quixote: Miguel de Cervantes; War and Peace: Leo Tolstoy;
Frankenstein: Mary Shelley; Moby Dick: Herman Melville; Faust: Johann Wolfgang von Goethe;
The Odyssey: Homer; Dracula: Bram Stoker; Emma: Jane Austen; Macbeth: William Shakespeare;
Les Miserables: Victor Hugo; The Time Machine: H. G. Wells; Robinson Crusoe: Daniel Defoe""")


def _with_article(table: dict[str, str]) -> dict[str, str]:
    return {a(key): value for key, value in table.items()}


WORLD: tuple[Relation, ...] = (
    Relation(
        "capital",
        (
            "What is the capital of {s}?",
            "Which city is the capital of {s}?",
            "Name the capital of {s}.",
            "Tell me the capital of {s}.",
            "What is the capital city of {s}?",
            "Do you know the capital of {s}?",
        ),
        ("The capital of {s} is {o}.", "{o} is the capital of {s}.", "It is {o}."),
        CAPITALS,
    ),
    Relation(
        "country",
        (
            "{s} is the capital of which country?",
            "Which country has {s} as its capital?",
            "In which country is {s}?",
            "Where is {s}?",
        ),
        ("{s} is the capital of {o}.", "{s} is in {o}."),
        {city: country for country, city in CAPITALS.items()},
    ),
    Relation(
        "continent",
        (
            "Which continent is {s} in?",
            "On which continent is {s}?",
            "Where in the world is {s}?",
            "What continent does {s} belong to?",
        ),
        ("{s} is in {o}.",),
        CONTINENTS,
    ),
    Relation(
        "language",
        (
            "What language do people speak in {s}?",
            "Which language is spoken in {s}?",
            "What is the main language of {s}?",
        ),
        ("People in {s} speak {o}.", "The main language of {s} is {o}."),
        LANGUAGES,
    ),
    Relation(
        "colour",
        (
            "What colour is {s}?",
            "What color is {s}?",
            "Which colour does {s} have?",
            "Tell me the colour of {s}.",
            "What is the colour of {s}?",
        ),
        ("{s} is {o}.", "The colour of {s} is {o}."),
        COLOURS,
    ),
    Relation(
        "sound",
        (
            "What sound does {s} make?",
            "What does {s} say?",
            "What noise does {s} make?",
            "How does {s} sound?",
        ),
        ("{s} says {o}.", "{s} makes the sound {o}."),
        _with_article(SOUNDS),
    ),
    Relation(
        "baby",
        (
            "What is a baby {s} called?",
            "What do you call a baby {s}?",
            "What is a young {s} called?",
            "What is the name for the young of {as}?",
        ),
        ("A baby {s} is called a {o}.", "A young {s} is a {o}."),
        BABIES,
        follow="a baby {s}",
    ),
    Relation(
        "home",
        ("Where does {s} live?", "Where can you find {s}?", "What is the home of {s}?"),
        ("{s} lives {o}.",),
        _with_article(HOMES),
    ),
    Relation(
        "food",
        ("What does {s} eat?", "What food does {s} like?", "What do you feed {s}?"),
        ("{s} eats {o}.", "{s} likes to eat {o}."),
        _with_article(FOODS),
    ),
    Relation(
        "legs",
        ("How many legs does {s} have?", "How many legs has {s}?", "Count the legs of {s}."),
        ("{s} has {o} legs.",),
        _with_article(LEGS),
    ),
    Relation(
        "use",
        (
            "What is {s} used for?",
            "What do you do with {s}?",
            "What can I use {s} for?",
            "Why do people use {s}?",
        ),
        ("You use {s} to {o}.", "People use {s} to {o}."),
        {(k if k == "scissors" or k == "soap" else a(k)): v for k, v in USES.items()},
    ),
    Relation(
        "job",
        (
            "What does {s} do?",
            "What is the job of {s}?",
            "What kind of work does {s} do?",
            "Tell me what {s} does.",
        ),
        ("{s} {o}.",),
        _with_article(JOBS),
    ),
    Relation(
        "material",
        (
            "What is {s} made of?",
            "What material is {s} made from?",
            "From what do people make {s}?",
        ),
        ("{s} is made of {o}.",),
        {
            (k if k in ("bread", "cheese", "chocolate", "butter", "wine") else a(k)): v
            for k, v in MADE_OF.items()
        },
    ),
    Relation(
        "property",
        ("What is {s} like?", "Describe {s} in one word.", "How would you describe {s}?"),
        ("{s} is {o}.", "I would say that {s} is {o}."),
        TASTES,
    ),
    Relation(
        "author",
        ("Who wrote {s}?", "Who is the author of {s}?", "Which writer wrote {s}?"),
        ("{s} was written by {o}.", "{o} wrote {s}."),
        AUTHORS,
    ),
)
