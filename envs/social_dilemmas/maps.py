"""Maps as text: a line a row; what the letters stand for is said where a game reads them.

Two are those of SSD, the sequential social dilemma games (https://github.com/eugenevinitsky/
sequential_social_dilemma_games), so that figures can be compared; copyright (c) 2020 Eugene Vinitsky, MIT licence.
"""

# The two small maps of Yang et al. (2020), with the cells where their agents start.
CLEANUP_SMALL = """
@@@@@@@
@H  1B@
@H   B@
@    B@
@    B@
@ 0  B@
@@@@@@@"""

CLEANUP_MEDIUM = """
@@@@@@@@@@
@HH   2 B@
@RR    BB@
@HH     B@
@RR    BB@
@HH 1   B@
@RR    BB@
@HH     B@
@RR0   BB@
@@@@@@@@@@"""

# The grid of Meulemans et al. (2025): the river, room to start in, the orchard.
CLEANUP_LITE = """
RPPPB
RPPPB
RPPPB
RPPPB"""

# The map of SSD: 119 river cells, 56 of them dirty, 12 of a stream, 103 of the orchard, 10 to start on.
CLEANUP_FULL = """
@@@@@@@@@@@@@@@@@@
@RRRRRR     BBBBB@
@HHHHHH      BBBB@
@RRRRRR     BBBBB@
@RRRRR  P    BBBB@
@RRRRR    P BBBBB@
@HHHHH       BBBB@
@RRRRR      BBBBB@
@HHHHHHSSSSSSBBBB@
@HHHHHHSSSSSSBBBB@
@RRRRR   P P BBBB@
@HHHHH   P  BBBBB@
@RRRRRR    P BBBB@
@HHHHHH P   BBBBB@
@RRRRR       BBBB@
@HHHH    P  BBBBB@
@RRRRR       BBBB@
@HHHHH  P P BBBBB@
@RRRRR       BBBB@
@HHHH       BBBBB@
@RRRRR       BBBB@
@HHHHH      BBBBB@
@RRRRR       BBBB@
@HHHH       BBBBB@
@@@@@@@@@@@@@@@@@@"""

# 147 river cells, 79 of them dirty, 20 of a stream, 122 of the orchard, 19 to start on: the counts of Melting Pot.
CLEANUP_MELTING_POT = """
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@RHRHRHRHRHRHRHRHRHRHRHRHRHRH@
@RHRHRHRHRHRHRHRHRHRHRHRHRHRH@
@RHHHRHHHRHHHRHRHRHHHRHRHHHRH@
@RHRHRHRHRHRHRHRHRHRHRHRHRHRH@
@RHRHRHRHRHRHRHRHRHRHRHRHRHRH@
@          HRHRHRH           @
@            SSSS            @
@ P   P   P  SSSS P   P   P  @
@            SSSS            @
@ P   P   P  SSSS P   P   P  @
@            SSSS            @
@ P   P   P   P   P   P   P  @
@                            @
@                            @
@B B B B B B B B B B B B B B @
@BBBBBBBBBBBBBBBBBBBBBBBBBBBB@
@BBBBBBBBBBBBBBBBBBBBBBBBBBBB@
@BBBBBBBBBBBBBBBBBBBBBBBBBBBB@
@BBBBBBBBBBBBBBBBBBBBBBBB    @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@"""

# 20 apples in four groups, 8 cells to start on.
HARVEST_SMALL = """
@@@@@@@@@@@
@P   P   P@
@  A   A  @
@ AAA AAA @
@  A   A  @
@P       P@
@  A   A  @
@ AAA AAA @
@  A   A  @
@P   P   P@
@@@@@@@@@@@"""

# The map of SSD: 155 apples, 20 cells to start on.
HARVEST_FULL = """
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@ P   P      A    P AAAAA    P  A P  @
@  P     A P AA    P    AAA    A  A  @
@     A AAA  AAA    A    A AA AAAA   @
@ A  AAA A    A  A AAA  A  A   A A   @
@AAA  A A    A  AAA A  AAA        A P@
@ A A  AAA  AAA  A A    A AA   AA AA @
@  A A  AAA    A A  AAA    AAA  A    @
@   AAA  A      AAA  A    AAAA       @
@ P  A       A  A AAA    A  A      P @
@A  AAA  A  A  AAA A    AAAA     P   @
@    A A   AAA  A A      A AA   A  P @
@     AAA   A A  AAA      AA   AAA P @
@ A    A     AAA  A  P          A    @
@       P     A         P  P P     P @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@"""

# 64 apples, 60 cells to start on: the counts of Melting Pot.
HARVEST_MELTING_POT = """
@@@@@@@@@@@@@@@@@@@@@@@@
@PPPPPPPPPPPPPPPPPPPPPP@
@    A           A     @
@   AAA         AAA    @
@  AAAAA       AAAAA   @
@   AAA         AAA    @
@    A     A     A     @
@P P P P PAAAP P P P P @
@  A     AAAAA     A   @
@         AAA          @
@P P P P P A P         @
@     A      A         @
@    AAA    AAA   A    @
@   AAAAA    A   AAA   @
@    AAA          A    @
@     A                @
@PPPPPPPPPPPPPPPPPPPPPP@
@@@@@@@@@@@@@@@@@@@@@@@@"""

# Five tokens of each of two kinds, three cells to start on.
MATRIX_SMALL = """
@@@@@@@
@ab ba@
@  P  @
@bP Pa@
@     @
@ab ba@
@@@@@@@"""

# 12 tokens of each of two kinds and 12 of a kind drawn for each episode, 13 cells to start on: Melting Pot's counts.
MATRIX_MELTING_POT = """
@@@@@@@@@@@@@@@@@@@@@@@
@P    P    P    P    P@
@   @@@    @    @@@   @
@  aaa ?   @   ? bbb  @
@  aaa ?   @   ? bbb  @
@        ?   ?        @
@ @@@@@         @@@@@ @
@P         P         P@
@ @@@@@         @@@@@ @
@        ?   ?        @
@  bbb ?   @   ? aaa  @
@  bbb ?   @   ? aaa  @
@   @@@    @    @@@   @
@P    P    P    P    P@
@@@@@@@@@@@@@@@@@@@@@@@"""
